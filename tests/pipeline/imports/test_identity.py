"""Pictures that come back under other names are the dataset's; and no name leads out of the pictures' folders."""

import http.server
import json
import shutil
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.masks.rle import encode_masks
from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.pictures import PictureFinder, base_names
from pipeline.imports.write import ImportSummary, import_labels
from pipeline.store.drop import drop_images

MakeDataset = Callable[..., str]
OBJECT = np.zeros((1, 40, 50), np.uint8)
OBJECT[0, 5:20, 8:30] = 1
CHANGED = [[6, 6, 20, 6, 20, 20, 6, 20]]


def labels(path: Path, names: list[str], **size: int) -> str:
    """COCO with its own fields only: one polygon in each picture of these names."""
    images = [{"id": i, "file_name": name, "height": 40, "width": 50, **size} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": i, "segmentation": CHANGED} for i in range(len(names))]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(path)


def load(path: str, uri: str, images: Path | None = None) -> ImportSummary:
    return import_labels(path, uri, images and str(images), "human", quiet=True)


def rounds(uri: str) -> dict[str, int]:
    return {row["image_id"]: row["round"] for row in open_dataset(uri).rows()}


def reasons(found: ImportSummary) -> dict[str, int]:
    return {reason: count for reason, count in found.notes.counts.items() if reason.startswith("matched")}


def test_an_export_that_lost_our_fields_comes_back_to_its_images(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a/one.png": OBJECT, "b/one.png": OBJECT})
    export(open_dataset(uri), str(tmp_path / "out"), "coco", pictures=True, quiet=True)
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    found = load(labels(tmp_path / "out" / "x.json", [names[0], f"C:\\data\\{names[1]}"]), uri)
    assert (found.corrected, found.added, found.failed) == (2, 0, 0)
    assert rounds(uri) == {"a/one.png": 1, "b/one.png": 1}
    assert reasons(found) == {"matched: image by the name that an export gave it": 2}


def test_a_picture_is_known_by_its_bytes_or_its_name(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a/eins.png": OBJECT, "a/für zwei.png": OBJECT, "b/3.png": OBJECT, "c/3.png": OBJECT})
    for row in open_dataset(uri).rows():
        Image.fromarray(np.random.default_rng(len(row["uri"])).integers(0, 255, (40, 50, 3), np.uint8)).save(row["uri"])
    held = import_of(tmp_path, uri)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(tmp_path / "pictures" / "a" / "eins.png", elsewhere / "renamed.png")
    decomposed = unicodedata.normalize("NFD", "f%C3%BCr%20zwei.png")
    found = load(labels(tmp_path / "x.json", ["renamed.png", decomposed, "3.png"]), held, elsewhere)
    assert reasons(found) == {"matched: image by its picture's content": 1, "matched: image by its file's name": 1}
    assert (found.corrected, found.failed) == (2, 1), "two images of the dataset are called 3.png"
    assert "3.png is not in" in found.failures[0]


def import_of(tmp_path: Path, uri: str) -> str:
    """The dataset imported anew, whose rows know their pictures' hashes."""
    export(open_dataset(uri), str(tmp_path / "all"), "sa1b", pictures=False, quiet=True)
    held = str(tmp_path / "held")
    found = import_labels(str(tmp_path / "all"), held, str(tmp_path / "pictures"), "imported", quiet=True)
    assert found.failed == 0, found.failures
    return held


def test_another_picture_of_the_same_name_is_added_and_counted(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a/one.png": OBJECT})
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(
        tmp_path / "pictures" / "a" / "one.png"
    )
    held = import_of(tmp_path, uri)
    (tmp_path / "other").mkdir()
    other = np.random.default_rng(7).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(other).save(tmp_path / "other" / "one.png")
    found = load(labels(tmp_path / "other" / "x.json", ["one.png"]), held)
    assert (found.corrected, found.added, found.failed) == (0, 1, 0)
    assert rounds(held) == {"a/one.png": 0, "one.png": 1}


def test_two_names_of_one_image_are_not_written_twice(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a/one.png": OBJECT})
    found = load(labels(tmp_path / "x.json", ["one.png", "x/one.png"]), uri)
    assert (found.corrected, found.failed) == (1, 1) and "another of the labels' images" in found.failures[0]
    assert len(rounds(uri)) == 1


def test_a_dropped_image_does_not_come_back_under_its_exported_name(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a.png": OBJECT, "b.png": OBJECT})
    export(open_dataset(uri), str(tmp_path / "out"), "coco", pictures=True, quiet=True)
    drop_images(uri, ["a.png"], quiet=True)
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    found = load(labels(tmp_path / "out" / "x.json", names), uri)
    assert (found.images, found.corrected) == (1, 1) and list(rounds(uri)) == ["b.png"]
    assert found.notes.counts["left out: image that was dropped from the dataset"] == 1


@pytest.mark.parametrize(
    ("picture", "names"),
    [
        ("a/b/c.png", ["c.png"]),
        (r"C:\a\c%20d.png", ["c%20d.png", "c d.png"]),
        ("https://host/a/c.png?token=/x.png", ["c.png"]),
        ("upload/1/1a2b3c4d-c.png", ["1a2b3c4d-c.png", "c.png"]),
        ("http://[x/c.png", ["c.png"]),
        ("a/..", []),
    ],
)
def test_base_names(picture: str, names: list[str]) -> None:
    assert base_names(picture) == names


def test_no_address_outside_is_asked_and_no_name_leaves_its_folder(tmp_path: Path) -> None:
    """A server counts what reaches it: labels of strangers name it, and files beside the pictures' folder."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (tmp_path / "private.png", inside / "a.png"):
        Image.new("RGB", (50, 40)).save(path)
    (inside / "link.png").symlink_to(tmp_path / "private.png")
    address = f"http://127.0.0.1:{server.server_port}/latest/meta.png"
    outside = [
        address,
        "../private.png",
        str(tmp_path / "private.png"),
        "%2e%2e/private.png",
        "link.png",
        "x/../../private.png",
    ]
    found = load(labels(inside / "x.json", [*outside, "a.png"]), str(tmp_path / "out"))
    server.shutdown()
    server.server_close()
    assert asked == [] and (found.images, found.failed, found.masks) == (7, 6, 1)
    assert all("leaves its folder" in one or "is not in" in one for one in found.failures)


def test_a_name_that_was_guessed_stands_for_one_picture_only(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "1.png")
    finder = PictureFinder([str(tmp_path)])
    assert finder.find("train/1.png") == finder.find("train/1.png") == str(tmp_path / "1.png")
    with pytest.raises(ValueError, match="both would be"):
        finder.find("val/1.png")


def test_masks_that_came_back_unchanged_are_known_by_their_image(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a.png": OBJECT})
    export(open_dataset(uri), str(tmp_path / "out"), "coco", pictures=True, quiet=True)
    path = tmp_path / "out" / "annotations.json"
    content = json.loads(path.read_text())
    del content["images"][0]["source_id"]
    path.write_text(json.dumps(content))
    assert load(str(path), uri).corrected == 1
    (row,) = open_dataset(uri).rows()
    assert row["rles"] == encode_masks(OBJECT) and row["masks"][0]["predicted_iou"] == 0.75
