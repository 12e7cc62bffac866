import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from typer.testing import CliRunner

from models.masks.rle import decode_masks, encode_masks
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.export.records import stem
from pipeline.export.write import Layout, export
from pipeline.imports.write import import_labels
from pipeline.store.drop import drop_images
from pipeline.store.verify import verify_dataset


def _masks(uri: str) -> dict[int, list[bytes]]:
    """The run lengths of each image, by the number of its pixels' rows (image names change on the way)."""
    return {row["height"]: row["rles"] for row in open_dataset(uri).rows()}


LARGE = np.zeros((2, 1400, 1700), np.uint8)
LARGE[0, ::3, 11:1600:5] = 1
LARGE[1, 5:1300, :] = 1


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    masks=arrays(
        np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 1)
    )
)
@example(masks=LARGE)
@pytest.mark.parametrize("layout", ["coco", "sa1b", "webdataset", "huggingface"])
def test_masks_come_back_bit_for_bit(
    layout: Layout,
    masks: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., str],
    shapes: np.ndarray,
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    uri = make_dataset(folder, {"a/b c.png": masks, "wide.png": shapes})
    export(open_dataset(uri), str(folder / "out"), layout, pictures=True, quiet=True)
    back = import_labels(str(folder / "out"), str(folder / "back"), None, "imported", quiet=True)
    assert (back.images, back.failed) == (2, 0)
    returned = {row["image_id"]: row["rles"] for row in open_dataset(str(folder / "back")).rows()}
    filled = masks[masks.any(axis=(1, 2))]
    assert returned == {"a/b c.png": encode_masks(filled), "wide.png": encode_masks(shapes[1:])}
    num_empty = len(masks) - len(filled) + 1
    assert back.notes.counts == {"left out: mask without a pixel": num_empty}
    assert verify_dataset(str(folder / "back")).problems == []


def test_coco_tools_read_the_export(tmp_path: Path, make_dataset: Callable[..., str], shapes: np.ndarray) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes[2:], "two.png": shapes[3:5, :30]})
    summary = export(open_dataset(uri), str(tmp_path / "out"), "coco", pictures=True, quiet=True)
    assert (summary.images, summary.masks, summary.missing) == (2, 6, 0)
    coco = COCO(tmp_path / "out" / "annotations.json")
    assert {one["name"] for one in coco.loadCats(coco.getCatIds())} == {"segment", "tabby"}
    for image in coco.loadImgs(coco.getImgIds()):
        expected = shapes[2:] if image["height"] == 40 else shapes[3:5, :30]
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert np.array_equal([coco.annToMask(one) for one in found], expected)
        assert [coco.cats[one["category_id"]]["name"] for one in found[:2]] == ["tabby", "segment"]
        with Image.open(tmp_path / "out" / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_sa1b_records_and_webdataset_shards(
    tmp_path: Path, make_dataset: Callable[..., str], shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes[2:], "two.png": shapes[3:5, :30], "three.png": shapes[3:4, :20]})
    export(open_dataset(uri), str(tmp_path / "sa1b"), "sa1b", pictures=True, quiet=True)
    record = json.loads((tmp_path / "sa1b" / f"{stem('one.png')}.json").read_text())
    assert set(record["image"]) >= {"image_id", "width", "height", "file_name"}
    first = record["annotations"][0]
    assert first["bbox"] == [9, 7, 1, 1] and first["area"] == 1 and first["point_coords"] == [[1.5, 2.5]]
    assert first["predicted_iou"] == 0.75 and first["crop_box"] == [0, 0, 50, 40]
    assert np.array_equal(coco_mask.decode(first["segmentation"]), shapes[2])
    assert (tmp_path / "sa1b" / record["image"]["file_name"]).is_file()

    export(open_dataset(uri), str(tmp_path / "shards"), "webdataset", pictures=True, quiet=True)
    seen = []
    for shard in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(shard) as archive:
            names = archive.getnames()
            assert [Path(name).suffix for name in names] == [".png", ".json"] * (len(names) // 2)
            for picture, data in zip(names[::2], names[1::2], strict=True):
                assert Path(picture).stem == Path(data).stem
                member = archive.extractfile(data)
                assert member is not None
                seen.append(json.loads(member.read())["image"]["source_id"])
    assert sorted(seen) == ["one.png", "three.png", "two.png"]


@pytest.mark.parametrize("layout", ["coco", "sa1b", "webdataset"])
def test_an_export_goes_on_and_a_missing_picture_is_named(
    tmp_path: Path, layout: Layout, make_dataset: Callable[..., str], shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes, "two.png": shapes, "three.png": shapes})
    (tmp_path / "pictures" / "two.png").unlink()
    out = tmp_path / "out"
    for _ in range(2):
        summary = export(open_dataset(uri), str(out), layout, pictures=True, quiet=True)
        written = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
        if layout != "webdataset":
            assert (summary.images, summary.masks, summary.missing) == (2, 12, 1)
            assert summary.missing_names[0].startswith("two.png: FileNotFoundError")
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}


def test_a_picture_that_others_would_read_otherwise_is_written_upright(
    tmp_path: Path, make_dataset: Callable[..., str], shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"turned.jpg": shapes}, decode={"orientation": 6, "bit_depth": 8, "bands": [0, 1, 2]})
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((50, 40, 3), np.uint8)  # turned by EXIF into 40 rows of 50
    Image.fromarray(pixels).save(tmp_path / "pictures" / "turned.jpg", exif=exif)
    export(open_dataset(uri), str(tmp_path / "out"), "coco", pictures=True, quiet=True)
    (name,) = (path.name for path in (tmp_path / "out" / "images").iterdir())
    assert name == f"{stem('turned.jpg')}.png"
    with Image.open(tmp_path / "out" / "images" / name) as picture:
        assert picture.size == (50, 40)


def test_file_names_stay_in_their_folder_and_apart() -> None:
    names = ["../../etc/passwd", "a/b.jpg", "a_b.jpg", "a.tar!x y.jpg", "ü" * 300 + ".png", ".", "", "a/b.png"]
    stems = [stem(name) for name in names]
    assert len(set(stems)) == len(names)
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for one in stems)
    assert all(len(one) < 100 for one in stems)


def test_import_of_polygons_crowds_and_broken_images(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / "small.png")
    sizes = {"width": 50, "height": 40}
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    counts = {"size": [40, 50], "counts": [0, 2000]}
    coco = {
        "images": [
            {"id": 1, "file_name": "a.png", **sizes},
            {"id": 2, "file_name": "small.png", **sizes},
            {"id": 3, "file_name": "gone.png", **sizes},
            {"id": 4, "file_name": "../outside.png", **sizes},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": square},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": counts, "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "segment"}, {"id": 7, "name": "door"}],
    }
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "outside.png")
    (tmp_path / "a.png").rename(tmp_path / "labels" / "a.png")
    (tmp_path / "small.png").rename(tmp_path / "labels" / "small.png")
    (tmp_path / "labels" / "annotations.json").write_text(json.dumps(coco))
    summary = import_labels(str(tmp_path / "labels"), str(tmp_path / "out"), None, "human", quiet=True)
    assert (summary.images, summary.failed, summary.masks) == (4, 3, 2)
    rows = {row["image_id"]: row for row in open_dataset(str(tmp_path / "out")).rows()}
    door, crowd = rows["a.png"]["masks"]
    assert door["source"] == crowd["source"] == "human"
    assert [tag["name"] for tag in door["tags"]] == ["door"] and crowd["tags"] == []
    assert crowd["iscrowd"] and crowd["area"] == 2000 and not door["iscrowd"]
    assert decode_masks(rows["a.png"]["rles"], 40, 50)[0][12, 12] == 1
    assert "10 x 10" in rows["small.png"]["error"]
    assert "gone.png is not in" in rows["gone.png"]["error"]
    assert "leaves its folder" in rows["../outside.png"]["error"]
    assert verify_dataset(str(tmp_path / "out")).problems == []


def test_wrong_labels_and_outputs_are_one_line(
    tmp_path: Path, make_dataset: Callable[..., str], shapes: np.ndarray
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no JSON"):
        import_labels(str(tmp_path / "empty"), str(tmp_path / "out"), None, "human", quiet=True)
    (tmp_path / "empty" / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"x\.json: not Label Studio's JSON, nor a list of masks"):
        import_labels(str(tmp_path / "empty"), str(tmp_path / "out"), None, "human", quiet=True)
    uri = make_dataset(tmp_path, {"one.png": shapes})
    runner = CliRunner()
    wrong = runner.invoke(app, ["export", uri, str(tmp_path / "o"), "--layout", "xml"])
    assert isinstance(wrong.exception, ValueError) and "none of sa1b, coco, webdataset, " in str(wrong.exception)
    wrong = runner.invoke(app, ["import", uri, str(tmp_path / "o"), "--source", "x"])
    assert isinstance(wrong.exception, ValueError) and "none of human, imported" in str(wrong.exception)


def test_on_the_command_line_and_in_a_bucket(
    tmp_path: Path, s3_server: Path, make_dataset: Callable[..., str], shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes})
    (s3_server / "exports").mkdir()
    shutil.copytree(uri, s3_server / "exports" / "dataset")
    runner = CliRunner()
    arguments = ["export", "s3://exports/dataset", "s3://exports/out", "--images", "--where", "area between 2 and 1000"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "3 masks of 1 images" in result.output
    content = json.loads((s3_server / "exports" / "out" / "annotations.json").read_text())
    assert len(content["annotations"]) == 3
    result = runner.invoke(app, ["import", str(s3_server / "exports" / "out"), "s3://exports/back", "--json"])
    assert json.loads(result.stdout)["masks"] == 3
    assert _masks("s3://exports/back")[40] == encode_masks(shapes[[3, 4, 5]])
    corrected = import_labels("s3://exports/out", "s3://exports/dataset", None, "human", quiet=True)
    assert (corrected.round, corrected.corrected) == (1, 1)
    assert _masks("s3://exports/dataset")[40] == encode_masks(shapes[[3, 4, 5]])
    assert drop_images("s3://exports/dataset", ["one.png"], quiet=True).rows == 2
    assert list(open_dataset("s3://exports/dataset").rows()) == []


@pytest.mark.parametrize("layout", ["webdataset", "huggingface"])
def test_from_a_bucket_to_a_bucket(
    tmp_path: Path, s3_server: Path, layout: Layout, make_dataset: Callable[..., str], shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes})
    (s3_server / layout).mkdir()
    shutil.copytree(uri, s3_server / layout / "dataset")
    out, back = f"s3://{layout}/out", f"s3://{layout}/back"
    summary = export(open_dataset(f"s3://{layout}/dataset"), out, layout, pictures=True, quiet=True)
    assert (summary.images, summary.masks) == (1, 6)
    assert import_labels(out, back, None, "imported", quiet=True).failed == 0
    (row,) = open_dataset(back).rows()
    assert row["rles"] == encode_masks(shapes[1:]) and row["uri"].startswith(f"s3://{layout}/")
