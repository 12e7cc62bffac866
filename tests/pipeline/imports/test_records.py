"""What records of other tools' files say is checked, image by image, and what is not taken over is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models.masks.rle import decode_masks, encode_masks
from pipeline.coco_labels import read_labels
from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.write import ImportSummary, import_labels
from pipeline.store.verify import verify_dataset
from stages.decode_pixels import DecodeSettings

HEIGHT, WIDTH = 20, 30
OBJECT = np.zeros((HEIGHT, WIDTH), bool)
OBJECT[4:9, 10:22] = True
RLE = encode_masks(OBJECT[None])[0]
MASK = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": RLE.decode()}, "category_id": 1}


def write(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """Labels of a.png (1) and b.png (2); an annotation without an image is of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH} for i, name in enumerate("ab", 1)]
    for number, image in enumerate(images):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 9, 9)).save(folder / image["file_name"])
    categories = [{"id": 1, "name": "cat"}]
    filled = [{"id": number, "image_id": 1, **MASK, **one} for number, one in enumerate(annotations)]
    (folder / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": filled, "categories": categories} | changes)
    )
    return folder


def load(folder: Path, tmp_path: Path) -> tuple[ImportSummary, dict[str, dict[str, Any]]]:
    found = import_labels(str(folder), str(tmp_path / "out"), None, "imported", quiet=True)
    assert verify_dataset(str(tmp_path / "out")).problems == []
    return found, {row["image_id"]: row for row in open_dataset(str(tmp_path / "out")).rows()}


def image(identity: Any, name: str = "a.png") -> dict[str, Any]:
    return {"id": identity, "file_name": name, "height": HEIGHT, "width": WIDTH}


@pytest.mark.parametrize(
    "reader", [lambda folder, out: import_labels(folder, out, None, "imported", True), read_labels]
)
@pytest.mark.parametrize(
    ("images", "image_id", "message"),
    [
        ([image(1), image(1, "b.png")], 1, "1 images share their id with another"),
        ([image(1), image("1", "b.png")], 1, "1 images share their id with another"),
        ([image(1)], 7, "1 masks without an image"),
        ([image(1)], None, "image_id is None"),
        ([image(1)], [1], r"image_id is \[1\]"),
        ([image(True)], 1, "id is True"),
        ([image(1.5)], 1, "id is 1.5"),
    ],
)
def test_references_that_are_wrong_are_refused_by_every_reader(
    tmp_path: Path, reader: Callable[..., Any], images: Any, image_id: Any, message: str
) -> None:
    folder = write(tmp_path / "in", [{"image_id": image_id}], images=images)
    with pytest.raises(ValueError, match=message) as raised:
        reader(str(folder), *([str(tmp_path / "out")] if reader is not read_labels else []))
    assert "\n" not in str(raised.value)


def test_ids_of_two_types_are_one_id(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [{"image_id": "1", "category_id": "1"}], images=[image(1.0)])
    rows = load(folder, tmp_path)[1]
    assert [tag["name"] for tag in rows["a.png"]["masks"][0]["tags"]] == ["cat"]
    assert [len(one.segments[0]) for one in read_labels(str(folder))] == [1]


def test_masks_without_a_tag_say_why(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 3}, {"id": 4, "name": None}]
    categories += [{"id": 5, "name": "dog"}, {"id": 5, "name": "fox"}, {"id": 6, "name": "segment"}]
    numbers = [1, 2, 3, 4, 5, 6, 7, [1], None]
    folder = write(tmp_path / "in", [{"category_id": one} for one in numbers], categories=categories)
    found, rows = load(folder, tmp_path)
    names = [[tag["name"] for tag in mask["tags"]] for mask in rows["a.png"]["masks"]]
    assert names == [["cat"], ["cat"], *[[]] * 7]
    assert found.notes.counts == {
        "untagged: category without a name": 2,
        "untagged: category of two names": 1,
        "untagged: unknown category": 2,
    }


def test_masks_that_hold_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    annotations = [{}, {"segmentation": [], "bbox": [5, 6, 20, 10]}, {"segmentation": [[1, 2, 3, 4]]}]
    annotations += [{"segmentation": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]}, {"segmentation": [[0, 0, 1e9, 0, 9, 9]]}]
    found, rows = load(write(tmp_path / "in", annotations), tmp_path)
    assert rows["a.png"]["rles"] == [RLE] and (found.masks, found.failed) == (1, 0)
    assert found.notes.counts == {
        "left out: box without a mask": 1,
        "left out: broken polygon": 1,
        "left out: mask without a pixel": 1,
        "left out: polygon far outside the picture": 1,
    }
    record = json.loads((tmp_path / "out" / "round=000" / "_run.json").read_text())
    assert record["counts"]["notes"] == found.notes.counts


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("predicted_iou", float("nan"), None),
        ("predicted_iou", float("inf"), None),
        ("predicted_iou", 1e300, None),
        ("predicted_iou", "0.93", None),
        ("predicted_iou", True, None),
        ("stability_score", [1], None),
        ("point_coords", [8.0, 8.0], None),
        ("point_coords", [[8.0, 8.0], [1, 1]], [8.0, 8.0]),
        ("crop_box", [0.5, 0.5, 30.0, 20.0], None),
        ("crop_box", [0.0, 0.0, 30.0, 20.0], [0, 0, 30, 20]),
        ("crop_box", [0, 0, 2**40, 20], None),
        ("caption", ["a cat"], None),
        ("caption", "a \ud800 cat", "a ? cat"),
        ("parent_id", 4, None),
        ("parent_id", {"a": []}, None),
        ("tags", ["reviewed", "hard"], None),
    ],
)
def test_a_field_of_another_form_is_ignored_and_counted(tmp_path: Path, field: str, value: Any, kept: Any) -> None:
    folder = write(tmp_path / "in", [{field: value}, {"image_id": 2}])
    found, rows = load(folder, tmp_path)
    assert (found.images, found.failed, found.masks) == (2, 0, 2)
    mask = rows["a.png"]["masks"][0]
    column = {"point_coords": "point"}.get(field, field)
    assert mask[column] == kept or (field == "tags" and [tag["name"] for tag in mask["tags"]] == ["cat"])
    ignored = 0 if kept is not None else 1
    assert found.notes.counts.get(f"ignored: {field} of another form", 0) == ignored
    export(open_dataset(str(tmp_path / "out")), str(tmp_path / "export"), "coco", pictures=False, quiet=True)
    text = (tmp_path / "export" / "annotations.json").read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_mask_ids_of_another_tool_are_made_unique_and_parents_follow(tmp_path: Path) -> None:
    annotations = [{"mask_id": "0"}, {"mask_id": "1", "parent_id": "0"}]
    annotations += [{"image_id": 2, "mask_id": "0", "predicted_iou": 0.99}, {"image_id": 2, "mask_id": "1"}]
    found, rows = load(write(tmp_path / "in", annotations), tmp_path)
    assert [mask["mask_id"] for mask in rows["a.png"]["masks"]] == ["a.png/0/0", "a.png/0/1"]
    assert [mask["parent_id"] for mask in rows["a.png"]["masks"]] == [None, "a.png/0/0"]
    assert found.notes.counts == {"renamed: mask_id of another tool, which need not be unique": 4}
    (good,) = open_dataset(str(tmp_path / "out")).filter("predicted_iou > .9").rows()
    assert [mask["mask_id"] for mask in good["masks"]] == ["b.png/0/0"]


def test_our_own_mask_ids_stay(tmp_path: Path) -> None:
    annotations = [{"mask_id": "a.png/3/7"}, {"mask_id": "a.png/0/1", "parent_id": "a.png/3/7"}]
    found, rows = load(write(tmp_path / "in", annotations), tmp_path)
    assert [mask["mask_id"] for mask in rows["a.png"]["masks"]] == ["a.png/3/7", "a.png/0/1"]
    assert rows["a.png"]["masks"][1]["parent_id"] == "a.png/3/7" and found.notes.counts == {}


def test_labels_of_the_stored_file_are_turned_and_what_cannot_be_told_is_counted(tmp_path: Path) -> None:
    images = []
    for orientation in range(1, 9):
        name = f"{orientation}.png"
        images.append({"id": orientation, "file_name": name, "height": HEIGHT, "width": WIDTH})
        exif = Image.Exif()
        exif[0x0112] = orientation
        (tmp_path / "in").mkdir(exist_ok=True)
        pixels = np.repeat(np.where(OBJECT, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
        Image.fromarray(pixels).save(tmp_path / "in" / name, exif=exif)
    annotations = [
        {"image_id": number, "point_coords": [[10.5, 4.5]], "crop_box": [10, 4, 12, 5]} for number in range(1, 9)
    ]
    found, rows = load(write(tmp_path / "in", annotations, images=images), tmp_path)
    assert found.failed == 0
    for number in (5, 6, 7, 8):
        row = rows[f"{number}.png"]
        with Image.open(tmp_path / "in" / f"{number}.png") as picture:
            assert picture.size == (WIDTH, HEIGHT)
        assert (row["width"], row["height"]) == (HEIGHT, WIDTH)
        shown = decode_masks(row["rles"], WIDTH, HEIGHT)[0]
        x, y, w, h = row["masks"][0]["crop_box"]
        assert shown.sum() == 60 and shown[y : y + h, x : x + w].all(), "the box of the object went with it"
        x, y = (int(value) for value in row["masks"][0]["point"])
        assert shown[y, x]
    untold = "noticed: picture with an EXIF orientation, whose labels may be of the stored file"
    assert found.notes.counts == {"turned: mask in the space of the stored file": 4, untold: 3}


def test_masks_of_a_correction_that_cannot_be_used_leave_the_image_as_it_was(tmp_path: Path) -> None:
    """A mask that is left out would be lost, as the labels' masks take the place of the dataset's."""
    load(write(tmp_path / "in", [{}, {"image_id": 2}]), tmp_path)
    folder = write(tmp_path / "in", [{}, {"segmentation": [[1, 2, 3, 4]]}, {"image_id": 2}])
    found, rows = load(folder, tmp_path)
    assert (found.corrected, found.failed, found.added) == (1, 1, 0) and "mask 1 of a.png" in found.failures[0]
    assert (rows["a.png"]["round"], rows["b.png"]["round"]) == (0, 1) and rows["a.png"]["rles"] == [RLE]


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 1, 30, 20, 600, "1", "a.png", "../a.png", "http://host/a.png", "\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=12,
)
SEGMENTATIONS = (
    ANY
    | st.lists(st.lists(st.floats() | st.integers(), min_size=6, max_size=10), max_size=3)
    | st.fixed_dictionaries(
        {"size": st.just([HEIGHT, WIDTH]), "counts": ANY | st.text(st.characters(max_codepoint=120))}
    )
)
FIELDS = ["id", "image_id", "category_id", "iscrowd", "bbox", "area", "predicted_iou", "point_coords", "crop_box"]
FIELDS += ["caption", "tags", "mask_id", "parent_id", "keypoints", "annotator", "attributes"]
ANNOTATION = st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=6)
IMAGE = st.dictionaries(
    st.sampled_from(["id", "file_name", "height", "width", "source_id", "coco_url"]), ANY, max_size=3
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(annotation=ANNOTATION, segmentation=SEGMENTATIONS, record=IMAGE, categories=ANY)
def test_no_record_ends_an_import_or_a_reading_of_labels(
    tmp_path_factory: pytest.TempPathFactory,
    annotation: dict[str, Any],
    segmentation: Any,
    record: dict[str, Any],
    categories: Any,
) -> None:
    """Whatever one record holds: a failed row, a counted reason, or one line; never another image's loss by it."""
    tmp_path = tmp_path_factory.mktemp("any")
    images = [image(1), image(2, "b.png") | record]
    odd = {"image_id": 2, "segmentation": segmentation, **annotation}
    folder = write(tmp_path / "in", [{}, odd], images=images, categories=categories)
    try:
        found, rows = load(folder, tmp_path)
    except ValueError as error:
        assert "\n" not in str(error).strip()
    else:
        assert found.images == 2 and rows["a.png"]["rles"][0] == RLE
        missing = 2 - found.masks
        assert missing <= 0 or found.failed or any(reason.startswith("left out") for reason in found.notes.counts)
    try:
        assert "a.png" in [one.path.name for one, _ in read_labels(str(folder)).pictures(DecodeSettings())]
    except ValueError as error:
        assert "\n" not in str(error).strip()
