"""A run over a manifest: what it carries reaches the record, and a source that hangs costs its own row only."""

import csv
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs.chunks import plan_chunks
from pipeline.runs.run import run
from pipeline.sources.listing import list_images
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hangs.png"


def write_manifest(path: Path, table: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["uri", "boxes", "licence"])
        writer.writeheader()
        writer.writerows(table)


def test_a_manifest_of_everything(photos: Path, tmp_path: Path, silent_server: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(photos / "1.png", arcname="in/1.png")
    table = [
        {"uri": "photos/0.png", "boxes": "[[8, 10, 28, 30]]", "licence": "CC0"},
        {"uri": "a.tar!in/1.png", "boxes": "", "licence": "MIT"},
        {"uri": "photos/0.png", "boxes": "[[36, 20, 60, 44]]", "licence": "MIT"},
        {"uri": "photos/none.png", "boxes": "", "licence": ""},
        {"uri": silent_server, "boxes": "", "licence": "?"},
        {"uri": "photos/2.png", "boxes": "[]", "licence": "CC0"},
        {"uri": "file:///etc/hostname", "boxes": "", "licence": "of nobody that was asked"},
    ]
    write_manifest(tmp_path / "m.csv", table)
    output = str(tmp_path / "out")
    recipe = validate_recipe(
        {
            "input": f"{tmp_path}/m.csv",
            "allow": [silent_server.rpartition("/")[0]],
            "output": output,
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 2, "store_floor": {"predicted_iou": 0, "stability_score": 0}},
            "filter": {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": None},
            "run": {"commit_every": 2, "decode_timeout": 4},
            "resources": {"sam_actors": 1},
        }
    )
    summary = run(recipe, quiet=True)
    assert (summary.status, summary.tally.images, summary.tally.failed) == ("done", 6, 3)
    target = Round(Folder(output), 0)
    rows = {row["image_id"]: row for part in target.parts() for row in target.read_part(part).to_pylist()}
    boxed, packed, missing, hanging, unprompted, strange = (rows[line["uri"]] for line in (*table[:2], *table[3:]))
    assert dict(boxed["extra"]) == {"licence": '["CC0", "MIT"]'} and boxed["source_etag"]
    assert summary.listing["gathered_rows"] == 1 and summary.listing["differing_columns"] == ["licence"]
    assert (target.read_record() or {})["runs"][0]["listing"] == summary.listing
    assert [mask["mask_index"] for mask in boxed["masks"]] == [-1, -1]
    assert (packed["uri"], packed["width"], packed["height"]) == (f"file://{tmp_path}/a.tar!in/1.png", 64, 56)
    assert {mask["mask_index"] for mask in packed["masks"]} <= {0, 1, 2} and packed["masks"]
    assert unprompted["status"] == "ok" and unprompted["masks"] == []
    assert missing["error"].startswith("decode: FileNotFoundError")
    assert hanging["error"] == "decode: RuntimeError: the worker died or hung at each of 2 attempts"
    assert strange["error"].startswith("decode: ForbiddenPlaceError: file:///etc/hostname is outside the dataset")
    assert (strange["content_sha256"], strange["source_etag"]) == (None, None)
    assert target.read_record()["pictures_from"] == [f"file://{tmp_path}", silent_server.rpartition("/")[0]]  # type: ignore[index]
    assert verify_dataset(output).num_problems == 0
    assert run(recipe, quiet=True).tally.images == 0
    # other prompts are another result, the order of rows is not
    write_manifest(tmp_path / "m.csv", [table[1], *table[3:], table[0] | {"boxes": "[[8, 10, 28, 31]]"}])
    plan = plan_chunks(list_images(f"{tmp_path}/m.csv"), target.committed(), 2, False)
    assert [chunk.images["image_id"].to_pylist() for chunk in plan] == [["photos/0.png"]]
