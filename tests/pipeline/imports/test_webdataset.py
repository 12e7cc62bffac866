import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.masks.rle import encode_masks
from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.write import import_labels


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 10, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def record(name: str, column: int) -> bytes:
    mask = np.zeros((1, 8, 10), np.uint8)
    mask[0, 2:6, column] = 1
    counts = encode_masks(mask)[0].decode()
    image = {"image_id": 1, "width": 10, "height": 8, "file_name": name}
    annotation = {"id": 0, "segmentation": {"size": [8, 10], "counts": counts}, "bbox": [column, 2, 1, 4], "area": 4}
    return json.dumps({"image": image, "annotations": [annotation]}).encode()


def write_archive(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def imported(labels: str, output: Path) -> dict[str, tuple[int, str]]:
    """id → column of its mask, and the member that is its picture."""
    summary = import_labels(labels, str(output), None, "imported", quiet=True)
    assert summary.failed == 0, summary.failures
    rows = open_dataset(str(output)).rows()
    return {row["image_id"]: (row["masks"][0]["bbox"][0], row["uri"].rpartition("!")[2]) for row in rows}


@pytest.mark.parametrize(
    "pairs",
    [
        [("train.v1/0001.jpg", "train.v1/0001.json"), ("train.v1/0002.jpg", "train.v1/0002.json")],
        [("shot 2.5 left.jpg", "shot 2.5 left.json"), ("shot 2.5 right.jpg", "shot 2.5 right.json")],
        [("IMG_1.JPG", "IMG_1.JSON"), ("IMG_2.JPEG", "IMG_2.Json")],
        [("plain.jpg", "plain.json"), ("v1.2/dotted.name.jpg", "v1.2/dotted.name.json")],
        [("a.jpg", "a.masks.json"), ("b.jpg", "b.masks.json")],
    ],
)
def test_pictures_and_records_find_each_other_whatever_their_names(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    members = [("0.cls", b"7"), (f"{pairs[0][0].partition('.')[0]}.txt", b"a caption")]
    for column, (picture, labels) in enumerate(pairs):
        members += [(picture, jpeg(column)), (labels, record(f"{column}.jpg", column))]
    write_archive(tmp_path / "in" / "a.tar", members)
    expected = {f"{column}.jpg": (column, picture) for column, (picture, _) in enumerate(pairs)}
    assert imported(str(tmp_path / "in"), tmp_path / "out") == expected


def test_of_a_repeated_member_the_last_copy_is_imported(tmp_path: Path) -> None:
    members = [("a.jpg", jpeg(0)), ("a.json", record("a.jpg", 1)), ("./a.json", record("a.jpg", 4))]
    write_archive(tmp_path / "in" / "a.TAR", members)
    assert imported(str(tmp_path / "in"), tmp_path / "out") == {"a.jpg": (4, "a.jpg")}


def test_a_damaged_archive_costs_what_follows_and_says_so(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "in" / "a.tar", [("a.json", record("a.jpg", 1)), ("a.jpg", jpeg(0))])
    path.write_bytes(path.read_bytes()[:2048])
    write_archive(tmp_path / "in" / "b.tar", [("b.json", record("b.jpg", 2)), ("b.jpg", jpeg(1))])
    summary = import_labels(str(tmp_path / "in"), str(tmp_path / "out"), None, "imported", quiet=True)
    assert (summary.images, summary.failed) == (3, 2)
    assert any("a.tar: ValueError: the archive is cut short or damaged" in one for one in summary.failures)


@pytest.mark.parametrize("labels", ["shards", "./shards/", "shards/ARCHIVE", "../work/shards"])
def test_an_exports_own_archives_come_back_by_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_dataset: Any, labels: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    masks = np.zeros((1, 8, 8), np.uint8)
    masks[0, 1:4, 3] = 1
    uri = make_dataset(tmp_path, {"a.png": masks, "deep/b.c.png": masks})
    export(open_dataset(uri), "shards", "webdataset", pictures=True, quiet=True)
    archives = sorted(path.name for path in Path("shards").glob("*.tar"))
    found: dict[str, tuple[int, str]] = {}
    for index, name in enumerate(archives if "ARCHIVE" in labels else [""]):
        found |= imported(labels.replace("ARCHIVE", name), tmp_path / f"back{index}")
    assert {name: column for name, (column, _) in found.items()} == {"a.png": 3, "deep/b.c.png": 3}
