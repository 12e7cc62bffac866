"""Each layout read by the tools it is for."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pandas as pd
import pytest
import webdataset
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.write import import_labels

MakeDataset = Callable[..., str]


def test_panoptic_segments_are_what_the_picture_shows(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes, "two.png": shapes[3:5, :30]})
    summary = export(open_dataset(uri), str(tmp_path / "out"), "panoptic", pictures=True, quiet=True)
    assert (summary.images, summary.masks, summary.lost_masks) == (2, 7, 1), "the empty mask has no place"
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert {one["name"]: one["isthing"] for one in content["categories"]} == {"segment": 1, "tabby": 1}
    images = {one["id"]: one for one in content["images"]}
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        assert (tmp_path / "out" / "images" / image["file_name"]).is_file()
        with Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"]) as file:
            colours = np.asarray(file.convert("RGB")).astype(int)
        ids = colours @ [1, 256, 65536]
        assert ids.shape == (image["height"], image["width"])
        assert set(np.unique(ids)) - {0} == {one["id"] for one in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            own = ids == segment["id"]
            assert own.sum() == segment["area"]
            box = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(own.astype(np.uint8))))
            assert box.tolist() == segment["bbox"]
        if image["height"] == 40:  # small masks lie on top of large ones
            assert ids[7, 9] == 3 and ids[6, 7] == 4 and ids[12, 13] == 2 and ids[12, 12] == 6


def draw(line: str, height: int, width: int) -> tuple[int, np.ndarray]:
    """A label as Ultralytics rasterises it: coordinates cut to whole pixels, then filled."""
    kind, *numbers = line.split()
    points = np.array(numbers, float).reshape(-1, 2) * [width, height]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    return int(kind), mask


def test_yolo_polygons_keep_holes_and_parts(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    parts = np.zeros((2, 61, 83), np.uint8)
    cv2.circle(parts[0], (30, 30), 20, 1, -1)
    cv2.circle(parts[0], (30, 30), 8, 0, -1)
    cv2.circle(parts[0], (60, 15), 9, 1, -1)
    cv2.ellipse(parts[1], (40, 30), (30, 9), 30, 0, 360, 1, -1)
    uri = make_dataset(tmp_path, {"one.png": shapes[[3, 2, 4, 0]], "parts.png": parts})
    summary = export(open_dataset(uri), str(tmp_path / "out"), "yolo", pictures=True, quiet=True)
    assert (summary.masks, summary.lost_masks) == (5, 1)
    about = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert about["names"] == {0: "segment", 1: "tabby"} and about["train"] == "images"
    for path in (tmp_path / "out" / "labels").iterdir():
        (picture,) = (tmp_path / "out" / "images").glob(f"{path.stem}.*")
        with Image.open(picture) as file:
            width, height = file.size
        lines = path.read_text().splitlines()
        drawn = [draw(line, height, width) for line in lines]
        if height == 40:
            assert [kind for kind, _ in drawn] == [1, 0, 0]
            for (_, mask), expected in zip(drawn, shapes[[3, 2, 4]], strict=True):
                assert (mask != expected).sum() <= 12, "but for the bridge into the hole"
        else:
            assert np.array_equal(drawn[1][1], parts[1]), "nothing is lost without holes and parts"
            wrong = drawn[0][1] != parts[0]
            assert 0 < wrong.sum() < 40 and drawn[0][1][30, 30] == 0 and drawn[0][1][15, 60] == 1
    with pytest.raises(ValueError, match="--layout yolo: the pictures must be written too; add --images"):
        export(open_dataset(uri), str(tmp_path / "other"), "yolo", pictures=False, quiet=True)


def test_yolo_boxes_of_thin_masks_have_a_width_and_a_height(tmp_path: Path, make_dataset: MakeDataset) -> None:
    """Tools take the box of a polygon's points, and drop what has none; a mask of one pixel, a row, a column."""
    masks = np.zeros((4, 40, 50), np.uint8)
    masks[0, 7, 9] = masks[1, 39, 3:30] = masks[2, :, 49] = masks[3, 0, 0] = 1
    uri = make_dataset(tmp_path, {"one.png": masks})
    export(open_dataset(uri), str(tmp_path / "out"), "yolo", pictures=True, quiet=True)
    (path,) = (tmp_path / "out" / "labels").iterdir()
    lines = path.read_text().splitlines()
    for line, mask in zip(lines, masks, strict=True):
        points = np.array(line.split()[1:], float).reshape(-1, 2)
        assert len(points) >= 3 and (np.ptp(points, axis=0) > 0).all() and 0 <= points.min() <= points.max() <= 1
        assert np.array_equal(draw(line, 40, 50)[1], mask)


def test_datasets_reads_the_hugging_face_layout(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    uri = make_dataset(tmp_path, {"one.png": shapes, "two.png": shapes[1:3, :30]})
    for pictures in (True, False):
        out = tmp_path / f"out-{pictures}"
        export(open_dataset(uri), str(out), "huggingface", pictures=pictures, quiet=True)
        found = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"), split="train")
        rows = {row["image_id"]: row for row in found}
        assert sorted(rows) == ["one.png", "two.png"]
        row = rows["one.png"]
        decoded = [coco_mask.decode({"size": [40, 50], "counts": mask["rle"]}) for mask in row["masks"]]
        assert np.array_equal(decoded, shapes)
        assert row["masks"][0]["tags"][1] == {"name": "tabby", "score": pytest.approx(0.6)}
        assert row["image"].size == (50, 40) if pictures else "image" not in row
    assert "Segment" in (tmp_path / "out-True" / "README.md").read_text()
    back = import_labels(str(tmp_path / "out-True"), str(tmp_path / "back"), None, "imported", quiet=True)
    assert (back.images, back.failed, back.masks) == (2, 0, 7)
    assert back.notes.counts == {"left out: mask without a pixel": 1}
    again = {row["image_id"]: row for row in open_dataset(str(tmp_path / "back")).rows()}
    before = {row["image_id"]: row for row in open_dataset(uri).rows()}
    assert again["one.png"]["rles"] == before["one.png"]["rles"][1:]
    assert Path(again["two.png"]["uri"]).is_file()
    assert again["one.png"]["masks"][0]["mask_id"] == "one.png/0/1"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_its_shards(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes, "two.png": shapes[1:3, :30], "a/three.png": shapes[:2]})
    export(open_dataset(uri), str(tmp_path / "out"), "webdataset", pictures=True, quiet=True)
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert len(shards) == 2
    seen = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"):
        record = sample["json"]
        masks = [coco_mask.decode(one["segmentation"]) for one in record["annotations"]]
        assert sample["png"].shape == (*masks[0].shape, 3)
        seen[record["image"]["source_id"]] = masks
    assert np.array_equal(seen["one.png"], shapes) and np.array_equal(seen["two.png"], shapes[1:3, :30])
    assert len(seen) == 3
    gc.collect()


def test_duckdb_and_pandas_read_the_dataset_as_it_is(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes, "two.png": shapes[1:3, :30]})
    frame = pd.read_parquet(f"{uri}/round=000", columns=["image_id", "height", "width", "masks", "rles"])
    row = frame[frame["image_id"] == "one.png"].iloc[0]
    decoded = [coco_mask.decode({"size": [row["height"], row["width"]], "counts": one}) for one in row["rles"]]
    assert np.array_equal(decoded, shapes)
    assert [mask["area"] for mask in row["masks"]] == shapes.sum((1, 2)).tolist()
    found = duckdb.sql(
        "select image_id, m.mask_id, m.area from (select image_id, unnest(masks) as m "
        f"from '{uri}/round=*/part-*.parquet') where m.keep and m.area > 600 order by all"
    ).fetchall()
    assert found == [("one.png", "one.png/0/1", 2000), ("two.png", "two.png/0/0", 1500)]
