import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.errors import RunError
from pipeline.export.write import export
from pipeline.imports.write import import_labels
from pipeline.queries.query import query
from pipeline.queries.subset import write_subset
from pipeline.runs.chunks import plan_chunks
from pipeline.runs.commit import Committer
from pipeline.runs.left_alone import without_dropped, without_labelled
from pipeline.sources.listing_schema import listing_table
from pipeline.store.drop import drop_images
from pipeline.store.index import publish, read_index
from pipeline.store.lease import hold_lease
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.masklets import masklet_table
from stages.record import SCHEMA, set_columns

MakeDataset = Callable[..., str]


def test_dropped_images_are_gone_from_every_round_and_export(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {f"{name}.png": shapes[1:4] for name in "abc"})
    for layout in ("sa1b", "webdataset", "coco"):
        export(open_dataset(uri), str(tmp_path / layout), layout, pictures=True, quiet=True)
    import_labels(str(tmp_path / "coco"), uri, None, "human", quiet=True)
    assert {row["round"] for row in open_dataset(uri).rows()} == {1}
    (Path(uri) / "report").mkdir()
    (Path(uri) / "report" / "index.html").write_text("shows b.png")
    summary = drop_images(uri, ["b.png", "c.png"], quiet=True)
    assert (summary.images, summary.rows) == (2, 4)
    for all_rounds in (False, True):
        assert {row["image_id"] for row in open_dataset(uri, all_rounds=all_rounds).rows()} == {"a.png"}
    answer, _ = query(open_dataset(uri), "select distinct image_id from masks")
    assert answer["image_id"].to_pylist() == ["a.png"]
    assert verify_dataset(uri).problems == [] and not (Path(uri) / "report" / "index.html").exists()
    for layout in ("sa1b", "webdataset"):
        again = export(open_dataset(uri), str(tmp_path / layout), layout, pictures=True, quiet=True)
        assert again.images == 1
        for path in (tmp_path / layout).rglob("*"):
            assert not path.is_file() or b'"b.png"' not in path.read_bytes(), path
    assert not list((tmp_path / "sa1b").glob("b-*"))
    assert drop_images(uri, ["b.png"], quiet=True).rows == 0, "once more does no harm"
    back = import_labels(str(tmp_path / "coco"), uri, None, "human", quiet=True)
    assert back.images == 1 and {row["image_id"] for row in open_dataset(uri).rows()} == {"a.png"}


def test_a_live_run_is_left_to_end_and_heeds_the_list_from_then_on(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3], "b.png": shapes[1:3]})
    target = Round(Folder(uri), 0)
    with hold_lease(target, "other"):
        with pytest.raises(RunError, match=r"run other .* is writing .*; the images are listed, .* the same command"):
            drop_images(uri, ["a.png", "late.png"], quiet=True)
        rows = target.read_part(target.parts()[0])
        late = set_columns(rows, {"image_id": pa.array(["late.png"])})
        assert target.write_part(7, pa.concat_tables([late, rows])).num_rows == 0
    assert {row["image_id"] for row in open_dataset(uri).rows()} == {"a.png", "b.png"}
    assert any("'a.png' was dropped and stands in it" in problem for problem in verify_dataset(uri).problems)
    result = CliRunner().invoke(app, ["drop", uri, "--image", "a.png", "--json"])
    assert json.loads(result.output) == {"images": 1, "rows": 1, "parts": 1, "in_no_round": 0, "again": 0}
    assert target.parts() == [1], "its last image is gone"
    assert verify_dataset(uri).problems == []
    with pytest.raises(ValueError, match="holds no rounds"):
        drop_images(str(tmp_path / "none"), ["a.png"], quiet=True)


def test_a_picture_that_the_dataset_holds_itself_goes_too(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3], "b.png": shapes[1:3, :30]})
    export(open_dataset(uri), str(tmp_path / "out"), "huggingface", pictures=True, quiet=True)
    own = str(tmp_path / "own")
    import_labels(str(tmp_path / "out"), own, None, "imported", quiet=True)
    drop_images(own, ["a.png"], quiet=True)
    assert [path.name[0] for path in (Path(own) / "pictures").iterdir()] == ["b"]


def test_runs_leave_dropped_and_labelled_images_alone(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {f"{name}.png": shapes[1:3] for name in "abc"})
    export(open_dataset(uri).filter("image_id = 'b.png'"), str(tmp_path / "out"), "coco", pictures=True, quiet=True)
    import_labels(str(tmp_path / "out"), uri, None, "human", quiet=True)
    drop_images(uri, ["c.png"], quiet=True)
    listing = pa.table({"image_id": ["a.png", "b.png", "c.png", "d.png"]})
    folder = Folder(uri)
    assert without_dropped(listing, folder)["image_id"].to_pylist() == ["a.png", "b.png", "d.png"]
    assert without_labelled(listing, folder)["image_id"].to_pylist() == ["a.png", "c.png", "d.png"]


def row_of(image_id: str, uri: str, content: str, **fields: object) -> pa.Table:
    row = {"image_id": image_id, "uri": uri, "content_sha256": content, "status": "ok", "tags": [], "masks": []}
    return pa.Table.from_pylist([{**row, "rles": [], "raw_rles": [], **fields}], schema=SCHEMA)


@pytest.mark.parametrize("named", ["a.png", "/in/a.png", "file:///in/a.png"])
def test_a_takedown_holds_under_other_names_addresses_and_as_a_copy(tmp_path: Path, named: str) -> None:
    target = Round(Folder(str(tmp_path)), 0)
    target.write_record({"runs": []})
    publish(target.folder, 0)
    target.write_part(0, row_of("a.png", "/in/a.png", "sha a"))
    target.write_part(1, pa.concat_tables([row_of("copy.png", "/in/copy.png", "sha a"), row_of("b", "/in/b", "sha b")]))
    summary = drop_images(str(tmp_path), [named], quiet=True)
    assert (summary.rows, summary.in_no_round) == (2, int(named.startswith("file://")))
    again = [
        row_of("in/a.png", "file:///in/a.png", "sha of another"),
        row_of("a.png", "/elsewhere/a.png", "sha of another"),
        row_of("x.png", "/elsewhere/x.png", "sha a"),
        row_of("other", "/in/copy.png", "sha of another"),
        row_of("c", "/in/c", "sha c"),
    ]
    assert target.write_part(2, pa.concat_tables(again))["image_id"].to_pylist() == ["c"]
    listing = pa.table({"image_id": ["in/a.png", "d"], "uri": ["file:///in/a.png", "file:///in/d"]})
    assert without_dropped(listing, target.folder)["image_id"].to_pylist() == ["d"]
    assert sorted(row["image_id"] for row in open_dataset(str(tmp_path)).rows()) == ["b", "c"]
    assert verify_dataset(str(tmp_path)).problems == []


def test_a_run_that_was_starting_brings_nothing_back(tmp_path: Path) -> None:
    """It listed its images before the takedown, and takes the round after it."""
    folder = Folder(str(tmp_path))
    Round(folder, 0).write_part(0, row_of("b", "/in/b", "sha b"))
    listing = listing_table(2, {"image_id": ["a", "b"], "uri": ["/in/a", "/in/b"]})
    assert drop_images(str(tmp_path), ["a"], quiet=True).in_no_round == 1, "not yet annotated"
    target = Round(folder, 0)
    with hold_lease(target, "run"):
        committer = Committer(target, "run", {})
        for chunk in plan_chunks(listing, target.committed(), 64, False):
            committer.expect([chunk])
            committer.add(row_of("a", "/in/a", "sha a").append_column("part", pa.array([chunk.part], pa.int32())))
    assert (committer.tally.images, committer.unfinished) == (0, 0)
    assert target.committed()["image_id"].to_pylist() == ["b"]


def test_an_import_that_was_starting_brings_nothing_back(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3], "b.png": shapes[1:3]})
    export(open_dataset(uri), str(tmp_path / "coco"), "coco", pictures=True, quiet=True)
    real = Round.write_part

    def late(target: Round, part: int, rows: pa.Table) -> pa.Table:
        if target.number == 1 and not read_index(target.folder).dropped:
            with pytest.raises(RunError, match="run import"):
                drop_images(uri, ["a.png"], quiet=True)
        return real(target, part, rows)

    monkeypatch.setattr(Round, "write_part", late)
    import_labels(str(tmp_path / "coco"), uri, None, "human", quiet=True)
    assert [row["image_id"] for row in open_dataset(uri).rows()] == ["b.png"]
    drop_images(uri, ["a.png"], quiet=True)
    assert verify_dataset(uri).problems == []


def test_a_video_is_taken_down_by_its_id(tmp_path: Path) -> None:
    target = MaskletRound(Folder(str(tmp_path)), 0)
    target.write_record({"kind": "masklets", "runs": []})
    videos = [{"video_id": name, "uri": f"/in/{name}", "status": "ok"} for name in ("a.mp4", "a.mp4", "b.mp4")]
    target.write_part(0, masklet_table(videos))
    assert drop_images(str(tmp_path), ["a.mp4"], quiet=True).rows == 2
    assert target.committed()["image_id"].to_pylist() == ["b.mp4"]
    assert target.write_part(1, masklet_table(videos[:1])).num_rows == 0


def test_what_was_left_out_as_a_near_duplicate_is_annotated_again(tmp_path: Path) -> None:
    target = Round(Folder(str(tmp_path)), 0)
    copies = [row_of(name, f"/in/{name}", name, status="skipped", duplicate_of=of) for name, of in ("xa", "yb")]
    target.write_part(0, pa.concat_tables([row_of("a", "/in/a", "a"), row_of("b", "/in/b", "b"), *copies]))
    assert drop_images(str(tmp_path), ["a"], quiet=True).again == 1
    listing = listing_table(4, {"image_id": [*"abxy"], "uri": [f"/in/{name}" for name in "abxy"]})
    plan = plan_chunks(without_dropped(listing, target.folder), target.committed(), 64, False)
    assert plan.new["image_id"].to_pylist() == ["x"]


def test_a_row_that_names_a_file_outside_reaches_nothing(tmp_path: Path) -> None:
    """A stranger's dataset, whose picture is said to lie two folders up."""
    outside = tmp_path / "x"
    outside.write_bytes(b"mine")
    uri = str(tmp_path / "data" / "set")
    target = Round(Folder(uri), 0)
    for part, address in enumerate(("pictures/../../../x", "pictures/../../x", "pictures/..")):
        target.write_part(part, row_of(str(part), f"{uri}/{address}", str(part)))
    assert drop_images(uri, ["0", "1", "2"], quiet=True).rows == 3
    assert outside.read_bytes() == b"mine" and target.parts() == []
    with pytest.raises(ValueError, match="leads out of"):
        target.folder.path("pictures/../x")


def test_verify_finds_what_a_takedown_left_in_any_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    target = Round(folder, 0)
    target.write_part(0, row_of("a", "/in/a", hashlib.sha256(b"picture").hexdigest()))
    kept = Path(target.part_path(0)).read_bytes()
    drop_images(str(tmp_path), ["a"], quiet=True)
    assert verify_dataset(str(tmp_path)).problems == []
    folder.write("round=000/_replaced/part-000000-0-01234567.parquet", kept)
    folder.write("round=000/part-000009-0-01234567.parquet", kept)
    folder.write("pictures/other-name.png", b"picture")
    problems = verify_dataset(str(tmp_path)).problems
    assert sum("'a' was dropped and stands in it" in problem for problem in problems) == 2
    assert any("pictures/other-name.png: its content was dropped" in problem for problem in problems)
    drop_images(str(tmp_path), ["a"], quiet=True)
    assert [problem for problem in verify_dataset(str(tmp_path)).problems if "pictures" not in problem] == []


def test_a_subset_keeps_the_list(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    uri, out = make_dataset(tmp_path, {"a.png": shapes[1:3], "b.png": shapes[1:3]}), str(tmp_path / "out")
    drop_images(uri, ["a.png"], quiet=True)
    write_subset(open_dataset(uri), out, quiet=True)
    assert read_index(Folder(out)).dropped == read_index(Folder(uri)).dropped
