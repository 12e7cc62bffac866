from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.record import SCHEMA

MakeDataset = Callable[..., str]
MASK = np.zeros((1, 40, 50), np.uint8)
MASK[0, 4:9, 10:22] = 1


@pytest.mark.parametrize(
    "counts", [b"", b"0P2", b"0PPPPPPPP2", b"\xff\xfe\x00", b"PPYo1PPYo1PPYo1PPYo1", None], ids=repr
)
def test_run_lengths_that_are_broken_are_a_problem_each_and_native_code_never_sees_them(
    tmp_path: Path, make_dataset: MakeDataset, counts: bytes | None
) -> None:
    uri = make_dataset(tmp_path, {"a.png": MASK, "b.png": MASK})
    target = Round(Folder(uri), 0)
    rows = target.read_part(0).to_pylist()
    rows[0]["rles"] = [counts]
    target.write_part(0, pa.Table.from_pylist(rows, schema=SCHEMA))
    found = verify_dataset(uri)
    assert (found.images, found.masks, found.num_problems) == (2, 2, 1)
    assert found.problems[0].startswith("a.png/0/0: ") and "run lengths" in found.problems[0]
    result = CliRunner().invoke(app, ["verify", uri])
    assert result.exit_code == 1 and "1 problems" in result.output


@pytest.mark.parametrize("size", [(None, 50), (0, 50), (2**31 - 1, 2**31 - 1)])
def test_an_image_of_no_size_or_an_impossible_one_is_a_problem(
    tmp_path: Path, make_dataset: MakeDataset, size: tuple[int | None, int]
) -> None:
    uri = make_dataset(tmp_path, {"a.png": MASK})
    target = Round(Folder(uri), 0)
    rows = target.read_part(0).to_pylist()
    rows[0] |= {"height": size[0], "width": size[1]}
    target.write_part(0, pa.Table.from_pylist(rows, schema=SCHEMA))
    assert "no run lengths of an image of" in verify_dataset(uri).problems[0]


def test_a_mask_id_that_another_image_has_is_a_problem(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {f"{name}.png": MASK for name in "abc"})
    assert verify_dataset(uri).problems == []
    target = Round(Folder(uri), 0)
    for part, name in ((0, "m1"), (1, "m1")):  # in parts of their own
        rows = target.read_part(part).to_pylist()
        rows[0]["masks"][0]["mask_id"] = name
        target.write_part(part, pa.Table.from_pylist(rows, schema=SCHEMA))
    assert verify_dataset(uri).problems == ["round=000: mask_id 'm1' of 'c.png' is also another image's"]
