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
from pipeline.runs.left_alone import without_dropped, without_labelled
from pipeline.store.drop import drop_images
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.record import set_columns

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
