"""README's promise: pandas, DuckDB and `datasets` read a dataset's parts as they are."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import open_dataset
from pipeline.queries.query import query
from pipeline.store.index import publish, withhold
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import EXTRA, SCHEMA, STORED_EXTRA, cast_column

MakeDataset = Callable[..., str]
README = Path(__file__).parents[3] / "README.md"
COLUMNS = [("licence", "CC0"), ("split", None)]


@pytest.fixture
def uri(tmp_path: Path, make_dataset: MakeDataset) -> str:
    """Three images, one without columns of its own, of which round 1 holds one anew and round 2, withheld, all."""
    shapes = np.ones((2, 8, 8), np.uint8)
    found = make_dataset(tmp_path, {f"{name}.png": shapes for name in "abc"}, {"b.png": {"extra": None}}, extra=COLUMNS)
    folder = Folder(found)
    rows = Round(folder, 0).read_part(0)
    for number, some in ((1, rows.slice(0, 1)), (2, rows)):
        again = [row | {"round": number} for row in some.to_pylist()]
        Round(folder, number).write_part(0, pa.Table.from_pylist(again, schema=SCHEMA))
    publish(folder, 1)
    withhold(folder, 2)
    return found


def test_datasets_reads_a_round_as_it_is(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    files = f"{uri}/round=000/part-*.parquet"
    rows = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))["train"]
    assert rows["image_id"][:] == ["a.png", "b.png", "c.png"]
    assert rows[0]["extra"] == [{"key": "licence", "value": "CC0"}, {"key": "split", "value": None}]
    assert rows[1]["extra"] is None and len(rows[2]["masks"]) == 2
    first = next(iter(datasets.load_dataset("parquet", data_files=files, streaming=True)["train"]))
    assert first["image_id"] == "a.png"


def test_pandas_reads_a_round_as_it_is(uri: str) -> None:
    frame = pd.read_parquet(f"{uri}/round=000")
    assert frame["image_id"].tolist() == ["a.png", "b.png", "c.png"]


def test_readmes_statement_counts_each_images_newest_published_masks(uri: str) -> None:
    statement = README.read_text().partition("```sql\n")[2].partition("```")[0].replace("DATASET", uri)
    assert statement.count("from ") > 1
    found = duckdb.sql(statement.replace("> .92", "> .5")).fetchall()
    assert sorted(row[1] for row in found) == [f"{name}.png/0/{index}" for name in "abc" for index in range(2)]


def test_own_columns_come_back_as_they_were_and_are_asked_by_name(uri: str) -> None:
    assert pq.read_schema(Round(Folder(uri), 0).part_path(0)).field("extra").type == STORED_EXTRA
    rows = {row["image_id"]: row["extra"] for row in open_dataset(uri, 0).rows()}
    assert rows == {"a.png": COLUMNS, "b.png": None, "c.png": COLUMNS}
    found, _ = query(open_dataset(uri, 0), "select image_id from images where extra['licence'] = 'CC0' order by 1")
    assert found["image_id"].to_pylist() == ["a.png", "c.png"]


def test_parts_of_an_earlier_version_hold_maps_and_are_read(uri: str) -> None:
    target = Round(Folder(uri), 0)
    older = Path(uri).parent / "older"
    (older / target.name).mkdir(parents=True)
    for part in target.parts():
        pq.write_table(target.read_part(part), older / target.name / f"part-{part:06d}.parquet")
    rows = target.read_part(0)
    assert rows.schema.field("extra").type == EXTRA
    assert Round(Folder(str(older)), 0).read_part(0).equals(rows)
    question = "select image_id from images where extra['licence'] = 'CC0' order by 1"
    found, _ = query(open_dataset(str(older), 0), question)
    assert found["image_id"].to_pylist() == ["a.png", "c.png"]


def test_slices_of_stored_columns_become_maps() -> None:
    entries = [[{"key": "a", "value": "1"}], None, [], [{"key": "b", "value": None}]]
    maps = [[("a", "1")], None, [], [("b", None)]]
    stored = pa.chunked_array([pa.array(entries, STORED_EXTRA), pa.array(entries, STORED_EXTRA).slice(2)])
    found = cast_column(stored, EXTRA)
    found.validate(full=True)
    assert found.to_pylist() == [*maps, *maps[2:]] and json.dumps(found.cast(STORED_EXTRA).to_pylist())
    assert cast_column(pa.chunked_array([], STORED_EXTRA), EXTRA).to_pylist() == []
