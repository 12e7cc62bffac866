"""Files that time, a disk or another tool has changed: found, named, and the rest stays readable."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.errors import UnreadableError
from pipeline.queries.query import query
from pipeline.store.compact import compact
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.status import read_status
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.record import conform

MakeDataset = Callable[..., str]


@pytest.fixture
def uri(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> str:
    return make_dataset(tmp_path, {f"{name}.png": shapes[1:4] for name in "abcd"})


def test_a_flipped_byte_gives_no_other_value_than_the_right_one(tmp_path: Path) -> None:
    target = Round(Folder(str(tmp_path)), 0)
    names = [random.Random(number).randbytes(40).hex() for number in range(100)]
    target.write_part(0, conform(pa.table({"image_id": names, "status": ["ok"] * 100})))
    path = Path(target.part_path(0))
    whole, right = path.read_bytes(), target.read_part(0)
    found = 0
    for place in random.Random(0).sample(range(len(whole)), 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert target.read_part(0).equals(right), place
        except UnreadableError as error:
            found += 1
            assert str(error).startswith(f"{path} is damaged (") and "\n" not in str(error)
    assert found > 75


def test_a_damaged_part_is_one_line_and_the_others_are_read(uri: str) -> None:
    target = Round(Folder(uri), 0)
    path = Path(target.part_path(1))
    path.write_bytes(path.read_bytes()[:-20])
    for command in (["status", uri], ["query", uri, "area > 0"], ["compact", uri]):
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, UnreadableError) and path.name in str(result.exception), command
    assert [problem for problem in verify_dataset(uri).problems if path.name in problem]
    answer, bad = query(open_dataset(uri), "select count(*) as n from images", skip_bad=True)
    assert (answer["n"].to_pylist(), bad) == ([2], [str(path)])
    assert len(target.read_part(0)) == 2


def test_a_part_that_somebody_removed_is_annotated_anew(uri: str) -> None:
    target = Round(Folder(uri), 0)
    path = Path(target.part_path(1))
    path.unlink()
    with pytest.raises(UnreadableError, match=rf"{path.name} is gone"):
        target.committed()
    with hold_lease(target, "run"):
        assert target.forget_lost_parts() == [f"round=000/{path.name}"]
        assert target.committed()["image_id"].to_pylist() == ["a.png", "b.png"]


def test_a_damaged_log_is_one_line(uri: str) -> None:
    entry = Path(uri) / "round=000/_log/00000001.json"
    entry.write_text("{half")
    with pytest.raises(UnreadableError, match=r"_log/00000001.json is damaged, and says which parts count"):
        Round(Folder(uri), 0).parts()


def test_files_that_are_no_parts_are_named_and_not_read(uri: str) -> None:
    folder = Path(uri) / "round=000"
    whole = Round(Folder(uri), 0).part_path(0)
    strays = ["part-000001 (1).parquet", "part-00000-8d2f-c000.snappy.parquet", "part-7.parquet", "part-000007.parquet"]
    for name in strays:
        shutil.copy(whole, folder / name)
    assert Round(Folder(uri), 0).parts() == [0, 1]
    assert len(list(open_dataset(uri).rows())) == 4
    compact(uri, 100, quiet=True)
    named = read_status(uri)[0].left_over
    for name in strays:
        assert (folder / name).exists() and any(f"{name} was not written by MaskFoundry" in line for line in named)
    assert verify_dataset(uri).num_problems == len(strays)
    assert "was not written by MaskFoundry" in CliRunner().invoke(app, ["status", uri]).output
