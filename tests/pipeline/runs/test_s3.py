"""Input, output and resume through a real S3 server process."""

import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RunError
from pipeline.sources.listing import list_images
from stages.read_source import open_filesystem, read_source


def bucket(s3_server: Path, name: str) -> Path:
    folder = s3_server / name
    folder.mkdir()
    return folder


def test_a_bucket_is_listed_page_by_page(s3_server: Path) -> None:
    folder = bucket(s3_server, "many")
    (folder / "in" / "deep er").mkdir(parents=True)
    names = [f"in/{number:05d}.png" for number in range(2100)] + ["in/deep er/ü#1.png", "in/notes.txt"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    (folder / "other.png").write_bytes(b"")
    listing = list_images("s3://many/in")
    expected = sorted(name.removeprefix("in/") for name in names if name.endswith(".png"))
    assert listing["image_id"].to_pylist() == expected
    assert listing["source_etag"].null_count == 0 and len(set(listing["source_etag"].to_pylist())) > 2000
    for row in listing.slice(2098, 3).to_pylist():
        assert read_source(row["uri"], None, None) == f"in/{row['image_id']}".encode()
    assert list_images("s3://many")["image_id"].to_pylist() == sorted([*(f"in/{one}" for one in expected), "other.png"])
    assert list_images("s3://many/in/**/ü*.png")["image_id"].to_pylist() == ["deep er/ü#1.png"]
    assert list_images("s3://many/in/0000?.png").num_rows == 10
    assert list_images("s3://many/in/00007.png")["image_id"].to_pylist() == ["00007.png"]
    with pytest.raises(ValueError, match=r"^input: 's3://many/none' does not exist"):
        list_images("s3://many/none")


def test_a_store_that_does_not_answer_is_one_line(s3_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_filesystem("s3://many")[0].clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    try:
        with pytest.raises(RunError, match=r"^input: 's3://many' cannot be read") as caught:
            list_images("s3://many")
        assert "\n" not in str(caught.value)
    finally:
        open_filesystem("s3://many")[0].clear_instance_cache()


@pytest.mark.parametrize(
    ("name", "value", "kind", "reason"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", RunError, "does not answer"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", ValueError, "Forbidden|signature"),
    ],
)
def test_an_output_that_cannot_be_looked_at_is_one_line(
    s3_server: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, kind: type, reason: str
) -> None:
    from pipeline.recipes.load_recipe import validate_recipe
    from pipeline.runs.run import run

    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    recipe = validate_recipe(
        {"input": str(photos), "output": "s3://refused/dataset", "model": {"checkpoint": "sam_tiny"}}
    )
    try:
        with pytest.raises(kind, match=rf"^output: 's3://refused/dataset' cannot be read( now)? \(.*({reason})"):
            run(recipe, quiet=True)
    finally:
        fsspec.filesystem("s3").clear_instance_cache()


def test_archives_and_manifests_in_a_bucket(s3_server: Path, photos: Path) -> None:
    import tarfile

    folder = bucket(s3_server, "packed")
    with tarfile.open(folder / "a.tar", "w") as file:
        for path in sorted(photos.glob("*.png")):
            file.add(path, arcname=path.name)
    (folder / "m.csv").write_text("uri,split\nx/1.png,train\na.tar!2.png,val\n")
    listing = list_images("s3://packed/*.tar").to_pylist()
    assert [row["image_id"] for row in listing] == [f"a.tar!{index}.png" for index in range(4)]
    for row in listing:
        assert row["uri"] == f"s3://packed/{row['image_id']}"
        expected = (photos / row["image_id"].removeprefix("a.tar!")).read_bytes()
        assert read_source(row["uri"], row["offset"], row["size"]) == expected
        assert read_source(row["uri"], None, None) == expected
    rows = list_images("s3://packed/m.csv").to_pylist()
    assert [(row["image_id"], row["uri"]) for row in rows] == [
        ("x/1.png", "s3://packed/x/1.png"),
        ("a.tar!2.png", "s3://packed/a.tar!2.png"),
    ]


def test_input_output_and_resume(s3_server: Path, photos: Path, ray_session: None) -> None:
    from pipeline.recipes.load_recipe import validate_recipe
    from pipeline.runs.run import run
    from pipeline.store.rounds import Round
    from pipeline.store.storage import Folder
    from pipeline.store.verify import verify_dataset

    source = bucket(s3_server, "photos")
    shutil.copytree(photos, source / "in")
    bucket(s3_server, "out")
    recipe = validate_recipe(
        {
            "input": "s3://photos/in",
            "output": "s3://out/dataset",
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 2, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
            "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
            "run": {"commit_every": 2},
            "resources": {"sam_actors": 1},
        }
    )
    first = run(recipe, quiet=True)
    assert (first.status, first.tally.images, first.tally.failed) == ("done", 5, 0)
    target = Round(Folder("s3://out/dataset"), 0)
    assert target.parts() == [0, 1, 2]
    rows = {row["image_id"]: row for part in target.parts() for row in target.read_part(part).to_pylist()}
    assert sorted(rows) == ["0.png", "1.png", "2.png", "3.png", "more/4.png"]
    assert rows["more/4.png"]["uri"] == "s3://photos/in/more/4.png"
    assert verify_dataset("s3://out/dataset").num_problems == 0
    assert run(recipe, quiet=True).tally.images == 0

    os.remove(s3_server / target.part_path(1))
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(source / "in" / "0.png")
    again = run(recipe, quiet=True)
    assert again.tally.images == 3 and again.total_images == 5
    redone = {row["image_id"]: row for part in target.parts() for row in target.read_part(part).to_pylist()}
    assert sorted(redone) == sorted(rows) and (redone["0.png"]["height"], redone["0.png"]["width"]) == (9, 8)
    for path in (s3_server / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in content
            assert os.environ["AWS_ACCESS_KEY_ID"].encode() not in content
