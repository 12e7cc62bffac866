import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.masks.rle import areas, decode_masks, encode_masks
from pipeline.coco_labels import read_labels, read_pixels
from pipeline.labels.segmentation import compressed_counts
from pipeline.scenes.scene import render_scene
from pipeline.scenes.write import write_scenes
from stages.decode_image import DecodeSettings

HEIGHT, WIDTH = 6, 8


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[1:4, 2:6] = True
    return mask


COMPRESSED = {"size": [HEIGHT, WIDTH], "counts": encode_masks(square()[None])[0].decode()}


def write(folder: Path, coco: Any, pictures: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in pictures:
        Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(folder / name)
    target = folder / "annotations.json"
    target.write_text(coco if isinstance(coco, str) else json.dumps(coco), encoding="utf-8")
    return target


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    images = [{"id": i, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH} for i, name in enumerate("ab", 1)]
    return {"images": images, "annotations": [{"id": i, **one} for i, one in enumerate(annotations, 1)]}


def test_written_scenes_come_back(tmp_path: Path) -> None:
    path = write_scenes(str(tmp_path / "set"), 2, seed=3, width=128, height=96)
    labels = read_labels(str(path.parent))
    assert len(labels) == 2 and labels.num_without_masks == 0
    for seed, image in enumerate(labels, start=3):
        scene = render_scene(seed, 128, 96)
        assert list(image.segments) == [0] and labels.notes.counts == {}
        decoded = decode_masks(image.segments[0], image.height, image.width)
        assert (decoded == np.stack([item.mask for item in scene.objects])).all()
        assert np.abs(read_pixels(image, DecodeSettings()).astype(int) - scene.image).mean() < 6


def test_every_form_of_a_mask_is_the_same_mask(tmp_path: Path) -> None:
    runs = [13, 3, 3, 3, 3, 3, 3, 3, 14]
    polygon = [[2, 1, 6, 1, 6, 4, 2, 4]]
    forms = [COMPRESSED, {"size": [HEIGHT, WIDTH], "counts": runs}, polygon]
    rles = {compressed_counts(one, HEIGHT, WIDTH) for one in forms}
    assert rles == {COMPRESSED["counts"].encode()}
    # several polygons are one mask
    halves = [[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 6, 1, 6, 4, 4, 4]]
    assert compressed_counts(halves, HEIGHT, WIDTH) in rles


def test_annotators_crowds_empty_masks_and_images_without_masks(tmp_path: Path) -> None:
    nothing = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    write(
        tmp_path,
        coco(
            {"image_id": 2, "annotator": 7, "segmentation": COMPRESSED},
            {"image_id": 2, "annotator": "b", "segmentation": COMPRESSED},
            {"image_id": 2, "annotator": 7, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]},
            {"image_id": 2, "segmentation": nothing},
            {"image_id": 2, "segmentation": []},
            {"image_id": 1, "segmentation": COMPRESSED, "iscrowd": 1},
        ),
        pictures=("b.png",),  # a.png has no masks, so nobody misses it
    )
    labels = read_labels(str(tmp_path))
    (image,) = list(labels)
    assert labels.num_without_masks == 1 and image.path.name == "b.png"
    assert labels.notes.counts == {
        "left out: crowd region": 1,
        "left out: mask without a pixel": 1,
        "left out: annotation without a mask": 1,
    }
    assert {name: areas(rles).tolist() for name, rles in image.segments.items()} == {7: [12, 1], "b": [12]}


def test_pictures_are_found_in_their_folder_and_limit_takes_the_first(tmp_path: Path) -> None:
    labels = coco({"image_id": 2, "segmentation": COMPRESSED}, {"image_id": 1, "segmentation": COMPRESSED})
    target = write(tmp_path / "labels", labels, pictures=())
    write(tmp_path / "elsewhere", "", pictures=("a.png", "b.png"))
    found = read_labels(str(target), images=str(tmp_path / "elsewhere"), limit=1)
    assert [image.path for image in found] == [tmp_path / "elsewhere/a.png"]
    write(tmp_path / "labels/images", "")
    assert [image.path.parent.name for image in read_labels(str(tmp_path / "labels"))] == ["images", "images"]


MASK = {"image_id": 1, "segmentation": COMPRESSED}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken JSON"),
        ("[]", "images is not a list of records"),
        ({"images": [1], "annotations": []}, "images is not a list of records"),
        ({"images": []}, "annotations is not a list of records"),
        (coco(), "none of its 2 images has a mask"),
        (coco(MASK, {"image_id": 9}), "1 masks without an image (annotation 2 is of image 9"),
        (coco(MASK, {"segmentation": []}), "annotation 2 has no image_id"),
        (coco(MASK, {"image_id": [1]}), "image_id is [1]"),
        ({"images": [{"id": 1}, {"id": 1}], "annotations": []}, "1 images share their id"),
        ({"images": [{"id": 1, "width": 8, "height": 0}], "annotations": [MASK]}, "height is 0"),
        ({"images": [{"id": 1, "width": 8, "height": 6}], "annotations": [MASK]}, "image 1 has no file_name"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, content)
    with pytest.raises(ValueError) as raised:
        read_labels(str(tmp_path))
    assert message in str(raised.value) and str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*cannot be read.*give a folder with annotations.json"):
        read_labels(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="limit: 0"):
        read_labels(str(tmp_path), limit=0)
    write(tmp_path, coco(MASK, {"image_id": 2, "segmentation": COMPRESSED}), pictures=("a.png",))
    with pytest.raises(ValueError, match=r"1 of 2 images are not in .*images \(b.png\)"):
        read_labels(str(tmp_path))


def test_a_mask_that_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, coco(MASK, {"image_id": 1, "segmentation": [[1, 2, 3, 4]]}, {**MASK, "annotator": [1]}))
    labels = read_labels(str(tmp_path))
    for _ in range(2):  # each pass counts anew
        (image,) = list(labels)
        assert [len(rles) for rles in image.segments.values()] == [1]
        assert labels.notes.counts == {"left out: broken polygon": 1, "left out: annotator that is no name": 1}
    assert labels.notes.first["left out: broken polygon"].startswith("annotation 2 of a.png: ")


def test_labels_of_which_nothing_can_be_used_are_one_line(tmp_path: Path) -> None:
    write(tmp_path, coco({"image_id": 1, "segmentation": None, "bbox": [1, 1, 4, 4]}))
    with pytest.raises(
        ValueError, match=r"none of its images can be used; .*left out: box without a mask: 1"
    ) as raised:
        list(read_labels(str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_an_image_without_a_size_or_with_another_pictures_is_left_out(tmp_path: Path) -> None:
    content = coco(MASK, {"image_id": 2, "segmentation": COMPRESSED}, {"image_id": 3, "segmentation": COMPRESSED})
    content["images"][1]["height"] = "6"
    content["images"].append({"id": 3, "file_name": "c.png", "height": HEIGHT, "width": WIDTH})
    write(tmp_path, content)
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / "c.png")
    labels = read_labels(str(tmp_path))
    assert [image.path.name for image in labels] == ["a.png"]
    counted = {"left out: image without a size": 1, "left out: picture of another size than its labels": 1}
    assert labels.notes.counts == counted
    assert "the picture is 9 x 6, its labels say 8 x 6" in labels.notes.first[list(counted)[1]]


def test_a_picture_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, coco(MASK, {"image_id": 2, "segmentation": COMPRESSED}))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:41])  # its header says the size still
    labels = read_labels(str(tmp_path))
    assert len(list(labels)) == 2
    assert [image.path.name for image, _ in labels.pictures(DecodeSettings())] == ["a.png"]
    assert labels.notes.counts == {"left out: picture that cannot be read": 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_a_stored_file_are_turned_with_its_picture(tmp_path: Path, orientation: int) -> None:
    """Quarter turns are seen from the sizes; half turns and mirrors cannot be, and are counted."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[square()] = 255
    write(tmp_path, coco(MASK), pictures=())
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    labels = read_labels(str(tmp_path))
    ((image, pixels),) = labels.pictures(DecodeSettings())
    quarter = orientation > 4
    assert pixels.shape[:2] == (image.height, image.width) == ((WIDTH, HEIGHT) if quarter else (HEIGHT, WIDTH))
    shown = decode_masks(image.segments[0], image.height, image.width)[0].astype(bool)
    if quarter or orientation == 1:
        assert np.array_equal(shown, pixels[..., 0] > 0), "the mask lies on the square"
    turned, untold = "turned: mask in the space of the stored file", "noticed: picture with an EXIF orientation"
    assert labels.notes.counts.get(turned, 0) == int(quarter)
    assert any(reason.startswith(untold) for reason in labels.notes.counts) == (orientation in (2, 3, 4))


def test_crowds_that_a_brush_drew_are_masks(tmp_path: Path) -> None:
    """CVAT marks what a brush drew as a crowd: its own annotations, and files of nothing else, are masks."""
    crowd = {"segmentation": COMPRESSED, "iscrowd": 1}
    write(
        tmp_path / "mixed", coco({"image_id": 1, **crowd, "attributes": {"occluded": False}}, {**MASK, **crowd}, MASK)
    )
    labels = read_labels(str(tmp_path / "mixed"))
    (image,) = labels
    assert len(image.segments[0]) == 2 and labels.notes.counts["left out: crowd region"] == 1
    write(tmp_path / "only", coco({"image_id": 1, **crowd}, {"image_id": 2, **crowd}))
    labels = read_labels(str(tmp_path / "only"))
    assert [len(image.segments[0]) for image in labels] == [1, 1]
    assert labels.notes.counts == {"read as masks: marked as a crowd, as CVAT marks what a brush drew": 2}


@pytest.mark.parametrize(
    ("name", "pictures"),
    [("_annotations.coco.json", ""), ("result.json", "images"), ("annotations/instances_val.json", "images/val")],
)
def test_folders_of_other_tools(tmp_path: Path, name: str, pictures: str) -> None:
    target = tmp_path / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(coco(MASK)))
    (tmp_path / pictures).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / pictures / "a.png")
    assert [image.path for image in read_labels(str(tmp_path))] == [tmp_path / pictures / "a.png"]


def test_a_broken_or_exchanged_picture_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, coco(MASK))
    (image,) = list(read_labels(str(tmp_path)))
    Image.new("RGB", (HEIGHT, WIDTH)).save(image.path)
    with pytest.raises(ValueError, match=r"a.png: the picture is 6 x 8, its labels say 8 x 6"):
        read_pixels(image, DecodeSettings())
    image.path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a.png: cannot be read"):
        read_pixels(image, DecodeSettings())
