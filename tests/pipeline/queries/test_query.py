import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.cli import app
from pipeline.dataset import Dataset, open_dataset
from pipeline.errors import UnreadableError
from pipeline.queries.query import query
from pipeline.queries.scans import Source, part_source
from pipeline.queries.sql import IMAGES, MASKS, QueryError, Room
from pipeline.queries.subset import write_subset
from pipeline.store.index import publish
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.record import SCHEMA

HEIGHT, WIDTH = 20, 30


def _rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


WHOLE, LEFT, CORNER, DOT = (
    _rectangle(*box) for box in ((0, 0, WIDTH, HEIGHT), (0, 0, 15, HEIGHT), (0, 0, 4, 5), (29, 19, 30, 20))
)


def _row(name: str, number: int, masks: list[tuple[np.ndarray, dict[str, Any]]], **changes: Any) -> dict[str, Any]:
    rles = encode_masks(np.stack([one for one, _ in masks])) if masks else []
    boxes = bounding_boxes(rles, HEIGHT).tolist() if rles else []
    common = {"source": "auto", "keep": True, "stability_score": 0.9, "tags": [], "iscrowd": False}
    return {
        "image_id": name,
        "uri": f"s3://photos/{name}",
        "width": WIDTH,
        "height": HEIGHT,
        "status": "ok",
        "tags": [],
        "masks": [
            {"mask_id": f"{name}/{number}/{index}", "bbox": bbox, "area": int(area), **common, **fields}
            for index, ((_, fields), bbox, area) in enumerate(zip(masks, boxes, areas(rles), strict=True))
        ],
        "rles": rles,
        "raw_rles": [None] * len(rles),
        "round": number,
        "fingerprints": {"generate": f"g{number}"},
        **changes,
    }


def _commit(folder: Folder, number: int, parts: list[list[dict[str, Any]]]) -> None:
    for index, rows in enumerate(parts):
        Round(folder, number).write_part(index, pa.Table.from_pylist(rows, schema=SCHEMA))
    Round(folder, number).write_record({"round": number, "fingerprints": {"generate": f"g{number}"}, "runs": []})
    publish(folder, number)


def _fill(uri: str) -> str:
    """Round 0: a (three kept masks, one rejected), b, and c, which failed. Round 1: b again."""
    folder = Folder(uri)
    tags = [{"name": "animal", "score": 0.5}, {"name": "dog", "score": 0.8}]
    a = [
        (WHOLE, {"predicted_iou": 0.95, "tags": tags}),
        (LEFT, {"predicted_iou": 0.93, "parent_id": "a/0/0", "caption": "it's left"}),
        (CORNER, {"predicted_iou": 0.5, "parent_id": "a/0/1"}),
        (DOT, {"predicted_iou": 0.99, "keep": False, "drop_reason": "stability_score"}),
    ]
    failed = _row("c", 0, [], status="failed", error="decode: broken", width=None, height=None)
    _commit(folder, 0, [[_row("a", 0, a)], [_row("b", 0, [(DOT, {"predicted_iou": 0.91})]), failed]])
    _commit(folder, 1, [[_row("b", 1, [(LEFT, {"predicted_iou": 0.94})], caption="a photo of b")]])
    return uri


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return _fill(str(tmp_path / "dataset"))


def _ids(found: Dataset) -> list[str]:
    return sorted(query(found)[0]["mask_id"].to_pylist())


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("predicted_iou > .92 and area between 200 and 50000", ["a/0/0", "a/0/1", "b/1/0"]),
        ("tag = 'dog'", ["a/0/0"]),
        ("tag = 'animal'", []),  # the best tag is the dog
        ("list_contains(tag_names, 'animal')", ["a/0/0"]),
        ("caption like '%''s left' -- the end", ["a/0/1"]),
        ("image_caption = 'a photo of b' and width = 30", ["b/1/0"]),
        ("parent_id is null and bbox[3] < 20", ["b/1/0"]),
        ("1 = 0", []),
    ],
)
def test_a_predicate_finds_masks_and_a_filter_their_rows(dataset: str, predicate: str, expected: list[str]) -> None:
    found = open_dataset(dataset).filter(predicate)
    assert _ids(found) == expected
    assert sorted(mask["mask_id"] for row in found.rows() for mask in row["masks"]) == expected


def test_the_newest_round_one_round_all_rounds_and_candidates(dataset: str) -> None:
    assert _ids(open_dataset(dataset)) == ["a/0/0", "a/0/1", "a/0/2", "b/1/0"]
    assert _ids(open_dataset(dataset, round=0)) == ["a/0/0", "a/0/1", "a/0/2", "b/0/0"]
    assert _ids(open_dataset(dataset, all_rounds=True)) == ["a/0/0", "a/0/1", "a/0/2", "b/0/0", "b/1/0"]
    assert _ids(open_dataset(dataset, candidates=True).filter("not keep")) == ["a/0/3"]
    rows = sorted(open_dataset(dataset).rows(), key=lambda row: row["image_id"])
    assert [(row["image_id"], row["round"], len(row["masks"])) for row in rows] == [
        ("a", 0, 3),
        ("b", 1, 1),
        ("c", 0, 0),
    ]
    with pytest.raises(ValueError, match=r"round: 7 is not in .* it holds 0, 1"):
        open_dataset(dataset, round=7)
    with pytest.raises(ValueError, match="holds no rounds"):
        open_dataset(str(Path(dataset).parent))


def test_a_whole_statement_over_both_views(dataset: str) -> None:
    answer, bad = query(
        open_dataset(dataset),
        "select image_id, num_masks, count(mask_id) as n from images left join masks using (image_id) "
        "group by all order by image_id",
    )
    assert bad == []
    assert answer.to_pylist() == [
        {"image_id": "a", "num_masks": 3, "n": 3},
        {"image_id": "b", "num_masks": 1, "n": 1},
        {"image_id": "c", "num_masks": 0, "n": 0},
    ]
    for view, names in (("images", IMAGES), ("masks", MASKS)):
        assert query(open_dataset(dataset), f"from {view} limit 0")[0].column_names == list(names)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("select predicted_iuo from masks", "no column 'predicted_iuo'; did you mean 'predicted_iou'?"),
        (
            'select * from masks where tag = "cat"',
            "no column 'cat'; did you mean 'caption'? A text stands in single quotes: 'cat'",
        ),
        ("select bbox [ 0 ] from masks", "lists begin at 1 here"),
        ("select tags[0].name from masks", "lists begin at 1 here"),
        ("select qqqq from masks", "no column 'qqqq'"),
        ("select count(* from masks", "syntax error"),
        ("select * from read_text('{outside}')", "reads this dataset and nothing else"),
        ("select * from '{outside}'", "reads this dataset and nothing else"),
        ("select * from read_csv('http://127.0.0.1:9/x')", "reads this dataset and nothing else"),
        ("copy (select 1) to '{outside}'", "not one SELECT"),
        ("select 1; drop view masks", "not one SELECT"),
        ("set enable_external_access = true", "not one SELECT"),
        ("install httpfs", "not one SELECT"),
        ("pragma database_list", "not one SELECT"),
        ("export database '{outside}'", "not one SELECT"),
        ("explain analyze select 1", "not one SELECT"),
        ("select * from glob('/*')", "reads this dataset and nothing else"),
        ("select * from read_blob('{outside}')", "reads this dataset and nothing else"),
        ("select * from parquet_metadata('{outside}')", "reads this dataset and nothing else"),
        ("select getenv('HOME')", "does not exist"),
        ("from scans", "does not exist"),
        ("attach '{outside}' as other", "not one SELECT"),
        ("", "not one SELECT"),
    ],
)
def test_what_no_statement_may_do(dataset: str, tmp_path: Path, statement: str, message: str) -> None:
    outside = tmp_path / "secret.csv"
    outside.write_text("a,b\n1,2\n")
    with pytest.raises(QueryError) as caught:
        query(open_dataset(dataset), statement.replace("{outside}", str(outside)))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert outside.read_text() == "a,b\n1,2\n"


def test_a_predicate_cannot_leave_its_place(dataset: str) -> None:
    for predicate in ("true); drop view masks; --", "mask_id = 'x'; select 1", "nonsense ="):
        with pytest.raises(QueryError):
            query(open_dataset(dataset).filter(predicate))
        with pytest.raises(QueryError):
            list(open_dataset(dataset).filter(predicate).rows())


@pytest.mark.parametrize(
    ("statement", "columns", "fields"),
    [
        ("select count(*) from masks where area > 25 and tag = 'dog'", set(), {"area", "tags", "keep"}),
        ("select fingerprints.generate from images", {"fingerprints"}, set()),
        ("select m.decode.mode, image_caption from masks m", {"decode", "caption"}, {"keep"}),
        ("select num_masks from images", set(), {"keep"}),
    ],
)
def test_only_what_a_statement_names_is_read(
    dataset: str, statement: str, columns: set[str], fields: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def watched(folder: Folder, path: str) -> Source:
        read = part_source(folder, path)

        def watch(columns: set[str], fields: set[str]) -> pa.Table:
            seen.append((columns, fields))
            return read(columns, fields)

        return watch

    monkeypatch.setattr("pipeline.queries.sql.part_source", watched)
    assert query(open_dataset(dataset, round=0), statement)[0].num_rows
    assert set.union(*(one for one, _ in seen)) == columns and set.union(*(one for _, one in seen)) == fields


def test_statements_that_name_no_column_read_all_of_them(dataset: str) -> None:
    found = open_dataset(dataset)
    (row,) = query(found, "select m from masks m where m.mask_id = 'b/1/0'")[0].to_pylist()
    (same,) = query(found, "from masks where mask_id = 'b/1/0'")[0].to_pylist()
    assert row["m"] == same and tuple(same) == MASKS
    assert same["fingerprints"]["generate"] == "g1" and same["image_caption"] == "a photo of b"
    assert same["bbox"] == [0, 0, 15, 20] and same["uri"] == "s3://photos/b" and same["caption"] is None
    assert query(found, "select fingerprints.generate as g from masks")[0]["g"].to_pylist().count("g1") == 1
    summary = {one["column_name"]: one for one in query(found, "summarize masks")[0].to_pylist()}
    assert (summary["area"]["min"], summary["area"]["max"], summary["area"]["count"]) == ("20", "600", 4)


def test_masks_as_arrays_frames_and_loaders(dataset: str) -> None:
    from torch.utils.data import DataLoader

    found = open_dataset(dataset)
    (row,) = found.filter("mask_id = 'a/0/2'").rows()
    assert np.array_equal(found.mask(row, 0), CORNER)
    assert row["masks"][0]["parent_id"] is None, "its parent is not in the selection"
    frame = found.to_pandas(["image_id", "status"])
    assert dict(zip(frame["image_id"], frame["status"], strict=True)) == {"a": "ok", "b": "ok", "c": "failed"}
    narrow = found.filter("area > 100")
    again = narrow.filter("predicted_iou > .94 or area < 400")
    assert _ids(again) == ["a/0/0", "a/0/1", "b/1/0"]
    for workers in (0, 2):
        seen = [row["image_id"] for row in DataLoader(found.to_torch(), batch_size=None, num_workers=workers)]
        assert sorted(seen) == ["a", "b", "c"]


def test_as_a_ray_dataset(dataset: str, ray_session: None) -> None:
    rows = open_dataset(dataset).filter("area > 100").to_ray().take_all()
    assert sorted((row["image_id"], len(row["masks"])) for row in rows) == [("a", 2), ("b", 1)]


def test_a_subset_is_a_dataset_that_says_where_it_is_from(dataset: str, tmp_path: Path) -> None:
    out = str(tmp_path / "subset")
    summary = write_subset(open_dataset(dataset).filter("area < 400"), out, quiet=True)
    assert (summary.images, summary.masks) == (2, 3)
    found = open_dataset(out)
    assert _ids(found) == ["a/0/1", "a/0/2", "b/1/0"]
    rows = {row["image_id"]: row for row in found.rows()}
    assert [coco_mask.decode({"size": [HEIGHT, WIDTH], "counts": one}).sum() for one in rows["a"]["rles"]] == [300, 20]
    assert [mask["parent_id"] for mask in rows["a"]["masks"]] == [None, "a/0/1"]
    assert rows["b"]["round"] == 0 and rows["b"]["fingerprints"]["generate"] == "g1"
    assert verify_dataset(out).problems == []
    source = json.loads((tmp_path / "subset" / "round=000" / "_run.json").read_text())["subset_of"]
    assert source["predicate"] == "area < 400" and source["rounds"]["1"]["fingerprints"] == {"generate": "g1"}
    with pytest.raises(ValueError, match="holds a dataset already"):
        write_subset(open_dataset(dataset), out, quiet=True)
    with pytest.raises(ValueError, match="an image may stand in it once"):
        write_subset(open_dataset(dataset, all_rounds=True), str(tmp_path / "other"), quiet=True)


def test_a_subset_that_matches_nothing_is_an_empty_dataset(dataset: str, tmp_path: Path) -> None:
    out = str(tmp_path / "none")
    assert write_subset(open_dataset(dataset).filter("false"), out, quiet=True).images == 0
    assert list(open_dataset(out).rows()) == [] and _ids(open_dataset(out)) == []


def test_a_damaged_part_is_named_and_can_be_left_out(dataset: str) -> None:
    source = Round(Folder(dataset), 0)
    part = Path(source.part_path(1))
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(UnreadableError, match=rf"{part.name} cannot be read .*--skip-bad"):
        query(open_dataset(dataset))
    answer, bad = query(open_dataset(dataset), skip_bad=True)
    assert sorted(answer["mask_id"].to_pylist()) == ["a/0/0", "a/0/1", "a/0/2", "b/1/0"]
    assert bad == [str(part)]
    first = Path(source.part_path(0))
    first.write_bytes(b"nothing")
    with pytest.raises(UnreadableError, match=rf"{first.name} and 1 more cannot be read"):
        query(open_dataset(dataset))


def test_uncommitted_files_are_no_part_of_it(dataset: str) -> None:
    (Path(dataset) / "round=001" / ".part-000009.parquet.tmp").write_bytes(b"half a file")
    assert len(_ids(open_dataset(dataset))) == 4


def test_answers_on_the_screen_and_in_files(dataset: str, tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["query", dataset, "area < 100", "--format", "json"])
    (row,) = [json.loads(line) for line in shown.output.splitlines()]
    assert row["mask_id"] == "a/0/2" and row["bbox"] == [0, 0, 4, 5] and row["area"] == 20
    assert "3 rows" in runner.invoke(app, ["query", dataset, "area > 100"]).output
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet), (".json", _read_lines)):
        path = tmp_path / f"answer{ending}"
        result = runner.invoke(app, ["query", dataset, "area > 100", "--output", str(path)])
        assert result.exit_code == 0 and "3 rows" in result.output
        assert sorted(read(path)["area"]) == [300, 300, 600]
    out = str(tmp_path / "subset")
    assert "1 masks of 1 images" in runner.invoke(app, ["query", dataset, "area < 100", "--subset", out]).output
    for arguments, message in (
        (["--sql", "select 1", "area > 1"], "neither a predicate nor --subset"),
        (["--format", "xml"], "none of table, json, csv, parquet"),
        (["--output", "x.txt"], "ends in none of"),
        (["--format", "table", "--output", "x.csv"], "a table is for the screen"),
    ):
        wrong = runner.invoke(app, ["query", dataset, *arguments])
        assert isinstance(wrong.exception, ValueError) and message in str(wrong.exception)


def _read_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True)


def test_a_dataset_in_a_bucket(dataset: str, s3_server: Path) -> None:
    (s3_server / "queried").mkdir()
    shutil.copytree(dataset, s3_server / "queried" / "dataset")
    found = open_dataset("s3://queried/dataset").filter("area < 400")
    assert _ids(found) == ["a/0/1", "a/0/2", "b/1/0"]
    write_subset(found, "s3://queried/subset", quiet=True)
    assert _ids(open_dataset("s3://queried/subset")) == ["a/0/1", "a/0/2", "b/1/0"]
    part = s3_server / Round(Folder("s3://queried/dataset"), 0).part_path(1)
    part.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(UnreadableError, match=part.name):
        query(open_dataset("s3://queried/dataset"))


def test_no_bar_is_drawn_on_what_json_prints() -> None:
    answer = Room([]).select("SELECT current_setting('enable_progress_bar_print') AS shown")
    assert answer["shown"].to_pylist() == [False]
