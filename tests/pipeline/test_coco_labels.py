import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.masks.rle import areas, decode_masks, encode_masks
from pipeline.coco_labels import compressed_counts, read_labels, read_pixels
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
        assert list(image.segments) == [0] and image.num_empty == 0
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
    assert labels.num_without_masks == 1 and image.path.name == "b.png" and image.num_empty == 2
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


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "neither polygons nor run lengths"),
        ({"size": [HEIGHT, WIDTH]}, "neither polygons nor run lengths"),
        ({"size": [WIDTH, HEIGHT], "counts": COMPRESSED["counts"]}, "size is"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, 49]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": COMPRESSED["counts"][:-1]}, "counts"),
        ({"size": [HEIGHT, WIDTH], "counts": "é"}, "counts are broken"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "counts are broken"),
        ({"size": [HEIGHT, WIDTH], "counts": 3}, "neither a list of numbers nor"),
        ([[1, 2, 3, 4]], "a polygon is not"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon is not"),
        ([1, 2, 3], "a polygon is not"),
    ],
)
def test_a_broken_mask_names_its_annotation(tmp_path: Path, segmentation: Any, message: str) -> None:
    write(tmp_path, coco(MASK, {"image_id": 1, "segmentation": segmentation}))
    with pytest.raises(ValueError, match=r"annotation 2 of a.png") as raised:
        list(read_labels(str(tmp_path)))
    assert message in str(raised.value)


def test_an_annotator_must_be_a_name(tmp_path: Path) -> None:
    write(tmp_path, coco({**MASK, "annotator": [1]}))
    with pytest.raises(ValueError, match=r"annotation 1 of a.png: annotator is \[1\]"):
        list(read_labels(str(tmp_path)))


def test_a_broken_or_exchanged_picture_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, coco(MASK))
    (image,) = list(read_labels(str(tmp_path)))
    Image.new("RGB", (HEIGHT, WIDTH)).save(image.path)
    with pytest.raises(ValueError, match=r"a.png: the picture is 6 x 8, its labels say 8 x 6"):
        read_pixels(image, DecodeSettings())
    image.path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a.png: cannot be read"):
        read_pixels(image, DecodeSettings())
