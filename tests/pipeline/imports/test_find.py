"""Kinds of labels are told by their content and by the layouts of the tools that write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.masks.rle import encode_masks
from pipeline.dataset import open_dataset
from pipeline.imports.write import ImportSummary, import_labels

HEIGHT, WIDTH = 20, 30
OBJECT = np.zeros((HEIGHT, WIDTH), bool)
OBJECT[4:9, 10:22] = True
RLE = encode_masks(OBJECT[None])[0]
SEGMENTATION = {"size": [HEIGHT, WIDTH], "counts": RLE.decode()}
SIZE = {"height": HEIGHT, "width": WIDTH}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", **SIZE}],
    "annotations": [{"id": 1, "image_id": 1, "segmentation": SEGMENTATION}],
}
POLYGON = {"points": [[40, 25], [70, 25], [70, 45], [40, 45]], "polygonlabels": ["cat"]}
SHAPE = {"type": "polygonlabels", "original_height": HEIGHT, "original_width": WIDTH, "value": POLYGON}


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(path)


def dump(path: Path, content: Any, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding=encoding)
    return path


def load(labels: Path, tmp_path: Path, images: Path | None = None) -> ImportSummary:
    return import_labels(str(labels), str(tmp_path / "out"), images and str(images), "imported", quiet=True)


def rles(tmp_path: Path) -> dict[str, list[bytes]]:
    return {row["image_id"]: row["rles"] for row in open_dataset(str(tmp_path / "out")).rows()}


def sa1b(name: str) -> dict[str, Any]:
    return {"image": {"file_name": name, **SIZE}, "annotations": [{"id": 0, "segmentation": SEGMENTATION}]}


@pytest.mark.parametrize(
    ("folder", "file", "pictures"),
    [
        ("", "annotations.json", ""),
        ("", "annotations.json", "images"),
        ("train", "_annotations.coco.json", "train"),
        ("", "annotations/instances_default.json", "images/default"),
        ("", "annotations/instances_val2017.json", "val2017"),
        ("", "result.json", "images"),
        ("", "my labels.JSON", ""),
        ("annotations", "annotations/x.json", ""),
    ],
)
def test_coco_in_the_folders_of_its_tools(tmp_path: Path, folder: str, file: str, pictures: str) -> None:
    root = tmp_path / "in"
    dump(root / folder / file if folder == "train" else root / file, COCO)
    save(root / pictures / "a.png")
    assert load(root / folder, tmp_path).failed == 0
    assert rles(tmp_path) == {"a.png": [RLE]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_unicode_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    save(tmp_path / "in" / "a.png")
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [SHAPE]}]}
    for number, content in enumerate((COCO, [task], sa1b("a.png"))):
        path = dump(tmp_path / "in" / f"{number}.json", content, encoding)
        found = import_labels(str(path), str(tmp_path / f"out{number}"), None, "imported", quiet=True)
        assert (found.images, found.failed, found.masks) == (1, 0, 1)


def test_what_segment_anythings_own_script_writes(tmp_path: Path) -> None:
    one = {"segmentation": SEGMENTATION, "area": 60, "bbox": [10, 4, 11, 4], "predicted_iou": 0.9}
    for name in ("photo", "two"):
        save(tmp_path / "in" / f"{name}.png")
        dump(tmp_path / "in" / f"{name}.json", [{**one, "point_coords": [[12.0, 5.0]], "crop_box": [0, 0, 30, 20]}])
    assert load(tmp_path / "in", tmp_path).masks == 2
    assert rles(tmp_path) == {"photo.png": [RLE], "two.png": [RLE]}
    mask = next(open_dataset(str(tmp_path / "out")).rows())["masks"][0]
    assert (mask["point"], mask["crop_box"]) == ([12.0, 5.0], [0, 0, 30, 20])


@pytest.mark.parametrize(
    "broken", ['{"image": {"file_na', "", "[1]", json.dumps(COCO), '{"image": 3, "annotations": 4}']
)
@pytest.mark.parametrize("first", ["a", "c"])
def test_one_broken_file_of_many_is_one_failed_image(tmp_path: Path, broken: str, first: str) -> None:
    root = tmp_path / "in"
    for name in "abc":
        save(root / f"{name}.png")
        dump(root / f"{name}.json", sa1b(f"{name}.png"))
    (root / f"{first}.json").write_text(broken)
    found = load(root, tmp_path)
    assert (found.images, found.failed, found.masks) == (3, 1, 2)
    assert found.failures[0].startswith(f"{first}.png: ") and f"{first}.json" in found.failures[0]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([{"image_id": 1, "category_id": 1, "segmentation": SEGMENTATION, "score": 0.9}], "COCO results"),
        ({"images": [], "annotations": [{"image_id": 1, "segments_info": []}]}, "COCO panoptic"),
        ({"images": []}, "images alone"),
        ({"videos": [], "annotations": []}, "YouTube-VIS"),
        ({"video_id": "x", "masklet": []}, "SA-V"),
        ({"shapes": [], "imagePath": "a.png"}, "LabelMe"),
        ({"_via_img_metadata": {}}, "VIA"),
        ([{"id": 1, "annotation_id": 2, "annotator": 1, "image": "a.png"}], "JSON-MIN"),
        ([{"data": {"image": "a.png"}, "predictions": []}], "nobody has worked on"),
        ([], "an empty list"),
        (3, "holds 3, and no labels"),
        ({"version": 1}, "it holds version"),
    ],
)
def test_what_is_no_labels_is_named(tmp_path: Path, content: Any, kind: str) -> None:
    path = dump(tmp_path / "in" / "x.json", content)
    with pytest.raises(ValueError) as raised:
        load(path, tmp_path)
    assert kind in str(raised.value) and "x.json" in str(raised.value) and "\n" not in str(raised.value)
    assert not list((tmp_path / "out").glob("**/*.parquet"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], "give one of its splits"),
        (["annotations/captions.json", "annotations/instances_a.json", "annotations/instances_b.json"], "name one"),
        (["data.yaml", "labels/a.txt"], "YOLO"),
        (["metadata.csv", "0.png"], "--convert-to-rle"),
        (["label_config.xml", "tasks/a.json"], "the JSON that its project exports"),
        (["_dataset.json"], "is a dataset of MaskFoundry"),
        (["a.json", "b.json"], "2 files of coco labels"),
        (["a.txt"], "holds no JSON"),
    ],
)
def test_a_folder_that_cannot_be_imported_says_what_it_is(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        dump(tmp_path / "in" / name, COCO)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "in", tmp_path)


def test_labels_without_an_image_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hold no image"):
        load(dump(tmp_path / "in" / "x.json", {"images": [], "annotations": []}), tmp_path)
    unfinished = {"data": {"image": "a.png"}, "annotations": [{"was_cancelled": True, "result": []}]}
    with pytest.raises(
        ValueError, match=r"hold no image that can be used \(left out: task that nobody has finished: 1"
    ):
        load(dump(tmp_path / "in" / "x.json", [unfinished]), tmp_path)


def test_label_studios_relations_choices_and_other_keys(tmp_path: Path) -> None:
    """A relation has no id and is no shape; the picture may be under any key; addresses of uploads are names."""
    relation = {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right"}
    choice = {"id": "c", "type": "choices", "value": {"choices": ["good"]}}
    result = [{**SHAPE, "id": "r1"}, relation, choice]
    tasks = [
        {"data": {"img": "pics/one.png", "note": "hello"}, "annotations": [{"result": result}]},
        {"data": {"image": "/data/upload/1/1a2b3c4d-two.png"}, "annotations": [{"result": result}]},
        {"data": {"image": "http://localhost:8080/data/upload/1/three.png?x=1"}, "annotations": [{"result": result}]},
        {"data": {"image": "/data/local-files/?d=pics/fo%20ur.png"}, "annotations": [{"result": result}]},
        {"data": {"a": "x.png", "b": "y.png"}, "annotations": [{"result": result}]},
        "no task",
    ]
    for name in ("pics/one.png", "two.png", "upload/1/three.png", "pics/fo ur.png"):
        save(tmp_path / "pictures" / name)
    found = load(dump(tmp_path / "in" / "x.json", tasks), tmp_path, tmp_path / "pictures")
    assert (found.images, found.failed, found.masks) == (5, 1, 4)
    assert "names the picture cannot be told" in found.failures[0]
    assert found.notes.counts["left out: task that is no record"] == 1
    assert {name for name, masks in rles(tmp_path).items() if masks} == {
        *("one.png", "1a2b3c4d-two.png", "three.png", "fo ur.png")
    }


def test_a_brush_is_held_against_the_picture_before_it_is_unpacked(tmp_path: Path) -> None:
    """It would hold 4 GB of pixels."""
    save(tmp_path / "in" / "a.png")
    brush = {"type": "brushlabels", "original_height": 32768, "original_width": 32767, "value": {"rle": [255] * 9}}
    tasks = [{"data": {"image": "a.png"}, "annotations": [{"result": [{"id": "x", **brush}]}]}]
    found = load(dump(tmp_path / "in" / "x.json", tasks), tmp_path)
    assert found.failed == 1 and "its labels say 32767 x 32768" in found.failures[0]
