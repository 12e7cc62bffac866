"""Rows, records, manifests and labels of strangers: no request is made and no file read outside what a user named."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.write import import_labels
from pipeline.queries.subset import write_subset
from pipeline.sources.listing import list_images
from pipeline.sources.places import RECORDED, dataset_places, input_places
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.training.recipe import DataSource
from pipeline.training.sources import DatasetImages
from pipeline.video.masklets import Masklets
from pipeline.video.report import write_video_report
from stages.attempts import AttemptCounts
from stages.decode_image import DecodeImages
from stages.decode_pixels import DecodeSettings
from stages.masklets import masklet_table

MakeDataset = Callable[..., str]
MASK = np.ones((1, 8, 8), np.uint8)
SECRET = b'{"AccessKeyId": "ASIASECRET"}'


class Server(ThreadingHTTPServer):
    """Answers everything with SECRET, and remembers what it was asked."""

    requests: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/latest/role"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(SECRET)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(SECRET)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as found:
        found.requests = []
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def strange(tmp_path: Path, make_dataset: MakeDataset, server: Server) -> str:
    """A dataset whose rows name an address, a private file, and a link out of the dataset."""
    (tmp_path / "private.png").write_bytes(b"PRIVATE KEY")
    uris = [f"{server.address}?x=.png", f"file://{tmp_path}/private.png", f"{tmp_path}/d/dataset/pictures/link.png"]
    names = [f"{number}.png" for number in range(3)]
    changes = {name: {"uri": uri} for name, uri in zip(names, uris, strict=True)}
    uri = make_dataset(tmp_path / "d", dict.fromkeys(names, MASK), changes)
    (Path(uri) / "pictures").mkdir()
    (Path(uri) / "pictures" / "link.png").symlink_to(tmp_path / "private.png")
    return uri


def test_an_export_holds_nothing_of_what_strange_rows_name(strange: str, tmp_path: Path, server: Server) -> None:
    for layout in ("coco", "webdataset", "huggingface"):
        summary = export(open_dataset(strange), str(tmp_path / layout), layout, pictures=True, quiet=True)
        assert (summary.images, summary.missing) == (0, 3)
        assert all(
            "ForbiddenPlaceError" in name and "add its folder to `allow`" in name for name in summary.missing_names
        )
        written = b"".join(path.read_bytes() for path in (tmp_path / layout).rglob("*") if path.is_file())
        assert SECRET not in written and b"PRIVATE KEY" not in written
    shown = CliRunner().invoke(app, ["export", strange, str(tmp_path / "cli"), "--images"])
    assert (
        shown.exit_code == 0 and "left out, as the picture cannot be read: 3 images (0.png: Forbidden" in shown.output
    )
    assert server.requests == []


def test_a_report_a_training_and_a_sample_ask_nothing_either(strange: str, tmp_path: Path, server: Server) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["report", strange]).exit_code == 0
    page = (Path(strange) / "report" / "index.html").read_text()
    assert page.count("is outside the dataset and its input, so it was not read") == 3 and "PRIVATE" not in page
    assert runner.invoke(app, ["audit", strange, "-n", "3", "--images"]).exit_code == 0
    images = DatasetImages(DataSource(path=strange))
    for index in range(len(images)):
        with pytest.raises(ValueError, match="ForbiddenPlaceError"):
            images.read(index)
    assert server.requests == []


def test_what_is_allowed_is_asked_and_given_out_only_as_a_picture(strange: str, tmp_path: Path, server: Server) -> None:
    host = server.address.rpartition("/")[0]
    allowed = ["--allow", host, "--allow", str(tmp_path)]
    command = ["export", strange, str(tmp_path / "out"), "--images", "--json", *allowed]
    summary = json.loads(CliRunner().invoke(app, command).output)
    assert (summary["images"], summary["missing"]) == (0, 3)
    assert all("UnidentifiedImageError" in name for name in summary["missing_names"]), "what is no picture stays here"
    assert set(server.requests) == {"/latest/role?x=.png"}


def test_a_record_is_believed_about_stores_and_not_about_addresses(strange: str, server: Server) -> None:
    """The record may come from the same stranger as the rows."""
    target = Round(Folder(strange), 0)
    record = target.read_record() or {}
    host = server.address.rpartition("/")[0]
    junk = [host, "https://host", "ftp://host", "/", "/etc", str(Path.home()), str(Path.home().parent), 7, None]
    for content in (
        {RECORDED: junk},
        {RECORDED: None, "recipe": {"input": junk}},
        {RECORDED: None, "recipe": {"input": host}, "subset_of": {"dataset": host, "rounds": [1]}},
        {RECORDED: None, "recipe": 7, "subset_of": "x"},
    ):
        target.write_record(record | content)
        assert dataset_places(strange).named == ()
    good = ["s3://photos", "gs://photos/more", "file:///data/photos", "/data/more"]
    target.write_record(record | {RECORDED: [*junk, *good]})
    assert dataset_places(strange, ["x.csv"]).named == (f"file://{Path.cwd()}", *good)
    older = {"dataset": "/data/whole", "rounds": {"0": {"recipe": {"input": ["s3://photos/*.png", "/data/m.csv"]}}}}
    target.write_record({"round": 0, "subset_of": older, "runs": []})
    assert dataset_places(strange).named == ("s3://photos", "file:///data", "file:///data/whole")


def test_the_places_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd[1]").mkdir()
    sources = (
        "photos",
        "odd[1]",
        "more/*/a.png",
        "a.tar",
        "m.csv",
        "s3://b/in/",
        "s3://b/**/x.tar",
        "http://h/m.parquet",
    )
    folder = f"file://{tmp_path}"
    assert input_places(sources) == (
        *(f"{folder}/{name}" for name in ("photos", "odd[1]", "more", "a.tar")),
        *(folder, "s3://b/in", "s3://b", "http://h"),
    )


def test_a_subset_reads_pictures_where_its_source_does(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path / "d", {"a.png": MASK})
    write_subset(open_dataset(uri), str(tmp_path / "subset"), quiet=True)
    summary = export(open_dataset(str(tmp_path / "subset")), str(tmp_path / "out"), "coco", pictures=True, quiet=True)
    assert (summary.images, summary.missing) == (1, 0)


def test_a_manifest_reads_below_its_folder_and_what_the_recipe_allows(tmp_path: Path, server: Server) -> None:
    lines = [server.address, "file:///etc/passwd", "/etc/hostname", "http://169.254.169.254/latest"]
    (tmp_path / "m.csv").write_text("\n".join(["uri", *lines]) + "\n")
    listing = list_images(str(tmp_path / "m.csv"))
    batch = listing.append_column("part", pa.array([0] * listing.num_rows, pa.int32()))
    places = dataset_places(str(tmp_path / "out"), input_places(str(tmp_path / "m.csv")))
    rows = DecodeImages(DecodeSettings(), AttemptCounts(), None, places=places)(batch).to_pylist()
    assert [row["status"] for row in rows] == ["failed"] * 4
    assert all(row["error"].startswith("decode: ForbiddenPlaceError") for row in rows)
    assert [(row["content_sha256"], row["source_etag"]) for row in rows] == [(None, None)] * 4
    assert server.requests == []


def test_labels_name_an_address_and_nobody_is_asked(tmp_path: Path, server: Server) -> None:
    names = [server.address, "file:///etc/hostname", "../../etc/hostname"]
    images = [{"id": id_, "file_name": name, "height": 8, "width": 8} for id_, name in enumerate(names)]
    (tmp_path / "l.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    summary = import_labels(str(tmp_path / "l.json"), str(tmp_path / "out"), None, "human", quiet=True)
    assert summary.failed == 3 and all(
        "leaves its folder; name the pictures' folder" in one for one in summary.failures
    )
    assert server.requests == []


def test_a_page_of_masklets_asks_nothing_outside(tmp_path: Path, server: Server) -> None:
    row = {
        "masklet_id": "a/0/0", "video_id": "a", "uri": server.address, "status": "ok", "width": 8, "height": 8,
        "num_frames": 1, "frame_times": [0.0], "object_id": 0, "key_frame": 0, "keep": True, "tags": [],
        "frame_indexes": [0], "rles": [b"0P2"], "visible": [True], "areas": [64], "num_visible": 1,
        "object_scores": [1.0], "stability_scores": [1.0],
    }  # fmt: skip
    target = MaskletRound(Folder(str(tmp_path / "out")), 0)
    target.write_part(0, masklet_table([row]))
    summary = write_video_report(Masklets(str(tmp_path / "out"), 0))
    assert (summary.videos, summary.strips) == (1, 0)
    assert "is outside the dataset and its input" in Path(summary.output).read_text()
    assert server.requests == []
