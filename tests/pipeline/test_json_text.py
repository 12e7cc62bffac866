import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.json_text import json_text
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import SCHEMA


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(value: float) -> None:
    content: dict[str, Any] = {"a": [1.5, value, {"b": (value, "NaN")}], "c": "Infinity"}
    found = json.loads(json_text(content), parse_constant=refuse)
    assert found == {"a": [1.5, None, {"b": [None, "NaN"]}], "c": "Infinity"}
    assert json_text({"ä": [1, 2.5, None, True]}, ensure_ascii=False) == '{"ä": [1, 2.5, null, true]}'


@pytest.mark.parametrize("layout", ["coco", "sa1b", "label-studio"])
def test_scores_that_are_no_numbers_leave_a_dataset_as_null(
    tmp_path: Path, make_dataset: Callable[..., str], shapes: np.ndarray, layout: Any
) -> None:
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3]})
    target = Round(Folder(uri), 0)
    rows = target.read_part(0).to_pylist()
    rows[0]["masks"][0]["predicted_iou"] = math.nan
    target.write_part(0, pa.Table.from_pylist(rows, schema=SCHEMA))
    export(open_dataset(uri), str(tmp_path / "out"), layout, pictures=False, quiet=True)
    for path in (tmp_path / "out").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_referenced_pictures_that_exif_turns_are_counted(
    tmp_path: Path, make_dataset: Callable[..., str], shapes: np.ndarray
) -> None:
    decode = {"orientation": 6, "bit_depth": 8, "bands": [0, 1, 2]}
    uri = make_dataset(tmp_path, {"a.png": shapes, "b.png": shapes}, per_image={"a.png": {"decode": decode}})
    for _ in range(2):  # found written, too
        assert export(open_dataset(uri), str(tmp_path / "out"), "coco", pictures=False, quiet=True).turned == 1
