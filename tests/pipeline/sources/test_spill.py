import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.sources.listing_schema import LISTING, listing_table
from pipeline.sources.spill import spilled


def part(start: int, stop: int) -> pa.Table:
    names = [f"{index}.png" for index in range(start, stop)]
    return listing_table(len(names), {"image_id": names, "extra": [[("split", "train")]] * len(names)})


def test_rows_come_back_as_they_were_and_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = pa.concat_tables([part(0, 20_000), part(20_000, 30_000)])
    before = pa.total_allocated_bytes()
    table = spilled(part(start, start + 10_000) for start in range(0, 30_000, 10_000))
    assert pa.total_allocated_bytes() - before < expected.nbytes / 10
    assert table == expected and table.slice(12_345, 2)["image_id"].to_pylist() == ["12345.png", "12346.png"]
    assert list(tmp_path.iterdir()) == []


def test_no_rows() -> None:
    assert spilled([]) == LISTING.empty_table() and spilled([part(0, 0)]).num_rows == 0
