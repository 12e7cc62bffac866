"""What all layouts share: resizing, going on, other settings, other contents."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from models.masks.rle import encode_masks
from pipeline.dataset import open_dataset
from pipeline.errors import UnreadableError
from pipeline.export.resize import resize_row, smaller_size
from pipeline.export.write import Layout, export
from pipeline.store.compact import compact
from pipeline.store.index import publish
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

MakeDataset = Callable[..., str]


def test_masks_follow_a_picture_to_its_new_size(tmp_path: Path, make_dataset: MakeDataset) -> None:
    masks = np.zeros((4, 40, 60), np.uint8)
    masks[0, 10:30, 20:50] = 1
    masks[1] = 1
    masks[2, 3, 3] = 1  # too small to be seen at half the size
    uri = make_dataset(tmp_path, {"one.jpg": masks, "small.png": masks[:1, :15]})
    export(open_dataset(uri), str(tmp_path / "out"), "coco", True, True, short_side=20)
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    image, small = content["images"]
    assert (image["width"], image["height"], small["width"], small["height"]) == (30, 20, 60, 15)
    with Image.open(tmp_path / "out" / "images" / image["file_name"]) as picture:
        assert picture.size == (30, 20) and picture.format == "JPEG"
    own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
    decoded = [coco_mask.decode(one["segmentation"]) for one in own]
    assert np.array_equal(decoded, masks[[0, 1, 3], ::2, ::2]), "the dot is gone, what was empty before is not"
    assert own[0]["bbox"] == [10, 5, 15, 10] and own[0]["area"] == 150
    with pytest.raises(ValueError, match="--short-side: the pictures must be written too; add --images"):
        export(open_dataset(uri), str(tmp_path / "x"), "coco", False, True, short_side=20)


def test_what_a_resized_row_says() -> None:
    masks = np.zeros((2, 40, 60), np.uint8)
    masks[0, 0, 0] = 1
    masks[1, :20] = 1
    common = {"point": [30.0, 8.0], "crop_box": [10, 20, 40, 20], "bbox": [], "area": 0}
    row = {
        "height": 40,
        "width": 60,
        "rles": encode_masks(masks),
        "raw_rles": [None, None],
        "mask_embeddings": [b"a1", b"b1"],
        "masks": [{"mask_id": "a", "parent_id": None, **common}, {"mask_id": "b", "parent_id": "a", **common}],
    }
    smaller = resize_row(row, 10, 15)
    (mask,) = smaller["masks"]
    assert (smaller["height"], smaller["width"], len(smaller["rles"])) == (10, 15, 1)
    assert smaller["mask_embeddings"] is None, "they are of the masks at their full size"
    assert mask["parent_id"] is None and mask["bbox"] == [0, 0, 15, 5] and mask["area"] == 75
    assert mask["point"] == [7.5, 2.0] and mask["crop_box"] == [2, 5, 10, 5]
    assert smaller_size(1500, 2250, 512) == (512, 768) and smaller_size(100, 9, 512) == (100, 9)
    assert smaller_size(9, 5000, 1) == (1, 556)


@pytest.mark.parametrize("layout", ["coco", "webdataset", "panoptic", "huggingface", "label-studio"])
def test_what_is_done_is_not_written_again(
    layout: Layout, tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {f"{name}.png": shapes[1:4] for name in "abc"})
    out = tmp_path / "out"
    first = export(open_dataset(uri), str(out), layout, pictures=True, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    (out / "_export" / "done" / "round-000-part-000001.json").unlink()  # as if it had been killed in the second part
    again = export(open_dataset(uri), str(out), layout, pictures=True, quiet=True)
    assert again == first
    changed = {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed and not any("part-000000" in name or name.startswith(("a-", "b-")) for name in changed)
    with pytest.raises(ValueError, match=r"output: .* holds another export \(predicate None\)"):
        export(open_dataset(uri).filter("area > 1"), str(out), layout, pictures=True, quiet=True)


def test_an_export_follows_its_dataset(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    """A newer round, and merged parts: run again, the export is as if it had been made now."""
    uri = make_dataset(tmp_path, {f"{name}.png": shapes[1:4] for name in "abc"})

    def exported() -> dict[str, int]:
        for layout in ("sa1b", "webdataset", "coco"):
            export(open_dataset(uri), str(tmp_path / layout), layout, pictures=True, quiet=True)
        content = json.loads((tmp_path / "coco" / "annotations.json").read_text())
        names = {one["id"]: one["source_id"] for one in content["images"]}
        counts = dict.fromkeys(names.values(), 0)
        for one in content["annotations"]:
            counts[names[one["image_id"]]] += 1
        records = [json.loads(path.read_text()) for path in (tmp_path / "sa1b").glob("*.json")]
        assert counts == {one["image"]["source_id"]: len(one["annotations"]) for one in records}
        return counts

    assert exported() == {"a.png": 3, "b.png": 3, "c.png": 3}
    folder = Folder(uri)
    row = Round(folder, 0).read_part(0).slice(1, 1)
    table = row.filter([True])
    masks = [{**mask, "mask_id": f"{mask['mask_id']}+"} for mask in table["masks"][0].as_py()[:1]]
    changed = {**table.to_pylist()[0], "masks": masks, "rles": table["rles"][0].as_py()[:1], "raw_rles": [None]}
    Round(folder, 1).write_part(0, table.from_pylist([{**changed, "round": 1}], schema=table.schema))
    publish(folder, 1)
    assert exported() == {"a.png": 3, "b.png": 1, "c.png": 3}
    compact(uri, 100, quiet=True)
    assert exported() == {"a.png": 3, "b.png": 1, "c.png": 3}
    assert len(list((tmp_path / "webdataset").glob("*.tar"))) == 2


def test_a_damaged_part_is_named(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    uri = make_dataset(tmp_path, {f"{name}.png": shapes[1:4] for name in "abc"})
    part = Path(Round(Folder(uri), 0).part_path(1))
    part.write_bytes(part.read_bytes()[:-40])
    for layout in ("coco", "sa1b"):
        with pytest.raises(UnreadableError, match=f"{part.name} is damaged"):
            export(open_dataset(uri), str(tmp_path / layout), layout, pictures=False, quiet=True)


def test_names_that_agree_in_32_bits_stay_apart(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    """Ids without a plain letter, whose hashes begin with the same eight hex digits."""
    names = ["一久仃.png", "一亐些.png"]
    uri = make_dataset(tmp_path, {name: shapes[1:3] for name in names})
    for layout in ("coco", "sa1b", "yolo"):
        summary = export(open_dataset(uri), str(tmp_path / layout), layout, pictures=True, quiet=True)
        assert (summary.images, len(list((tmp_path / layout).rglob("*.png")))) == (2, 2)


def test_an_export_of_an_older_version_is_written_anew(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {f"{name}.png": shapes[1:4] for name in "abc"})
    out = tmp_path / "out"
    export(open_dataset(uri), str(out), "sa1b", pictures=True, quiet=True)
    before = sorted(path.name for path in out.glob("*.*"))
    for mark in (out / "_export" / "done").iterdir():
        content = json.loads(mark.read_text())
        names = {name: f"{Path(name).stem[:-8]}{Path(name).suffix}" for name in content["files"]}
        for name, older in names.items():
            (out / name).rename(out / older)
        mark.write_text(json.dumps(content | {"token": "older", "files": list(names.values())}))
    export(open_dataset(uri), str(out), "sa1b", pictures=True, quiet=True)
    assert sorted(path.name for path in out.glob("*.*")) == before
