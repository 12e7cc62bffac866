from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.masks.rle import decode_masks, encode_masks
from stages.record import MASK, SCHEMA, as_lists, conform, fixed_rows, mask_structs, set_columns

MASKS = np.zeros((3, 20, 30), np.uint8)
MASKS[0, 2:12, 3:20] = 1
MASKS[1, 15, 15] = 1
RLES = encode_masks(MASKS)


def image_rows() -> pa.Table:
    """Two images, of three masks and of none, and a failed one; `part` is a working column."""
    masks = mask_structs(
        {
            "mask_id": ["a/0/4", "a/0/5", "a/0/9"],
            "bbox": fixed_rows(np.array([[3, 2, 17, 10], [15, 15, 1, 1], [0, 0, 0, 0]]), pa.int32()),
            "area": np.array([170, 1, 0]),
            "predicted_iou": np.array([0.95, 0.91, 0.85], np.float32),
            "stability_score": np.array([0.99, 0.96, 0.0], np.float32),
            "point": fixed_rows(np.array([[4.5, 3.25], [15, 15], [0, 0]]), pa.float32()),
            "keep": [True, True, False],
            "drop_reason": [None, None, "predicted_iou"],
        },
        3,
    )
    return pa.table(
        {
            "part": pa.array([1, 1, 1], pa.int32()),
            "status": ["ok", "ok", "failed"],
            "image_id": ["a", "b", "c"],
            "error": [None, None, "decode: UnidentifiedImageError: cannot identify image file"],
            "width": pa.array([30, 1, None], pa.int64()),
            "height": pa.array([20, 1, None], pa.int64()),
            "masks": as_lists(masks, [3, 0, 0]),
            "rles": as_lists(pa.array(RLES, pa.binary()), [3, 0, 0]),
            "raw_rles": as_lists(pa.array([RLES[1], None, None], pa.binary()), [3, 0, 0]),
            "extra": pa.array([[("licence", "CC0")], [], None], pa.map_(pa.string(), pa.string())),
        }
    )


def test_fixed_rows() -> None:
    rows = fixed_rows(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int64), pa.int32())
    assert rows.type == pa.list_(pa.int32()) and rows.to_pylist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    points = fixed_rows(np.array([[0.5, 1.5]]), pa.float32())
    assert points.type == pa.list_(pa.float32()) and points.to_pylist() == [[0.5, 1.5]]
    none = fixed_rows(np.zeros((0, 4), np.int32), pa.int32())
    assert none.type == pa.list_(pa.int32()) and len(none) == 0
    columns = np.arange(8).reshape(4, 2).T  # not contiguous
    assert fixed_rows(columns, pa.int32()).to_pylist() == columns.tolist()


def test_as_lists() -> None:
    assert as_lists(pa.array([1, 2, 3]), [2, 0, 1]).to_pylist() == [[1, 2], [], [3]]
    assert as_lists(pa.array([], pa.binary()), [0, 0]).to_pylist() == [[], []]
    assert as_lists(pa.array([], pa.binary()), []).type == pa.list_(pa.binary())
    with pytest.raises(AssertionError):
        as_lists(pa.array([1, 2, 3]), [2])


def test_mask_structs_fill_what_is_not_given() -> None:
    [mask] = mask_structs({"mask_id": ["a/0/1"], "area": np.array([7])}, 1).to_pylist()
    assert list(mask) == [one.name for one in MASK]
    assert (mask["mask_id"], mask["area"], mask["iscrowd"], mask["tags"]) == ("a/0/1", 7, False, [])
    given = ("mask_id", "area", "iscrowd", "tags")
    assert all(value is None for name, value in mask.items() if name not in given)
    none = mask_structs({}, 0)
    assert len(none) == 0 and none.type == MASK
    with pytest.raises(AssertionError, match="not fields of a mask: \\['score'\\]"):
        mask_structs({"score": [0.5]}, 1)


def test_set_columns_replaces_in_place_and_appends() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    changed = set_columns(table, {"a": pa.array([3.5, 4.5]), "c": pa.array([True, None])})
    assert changed.column_names == ["a", "b", "c"]
    assert changed.to_pydict() == {"a": [3.5, 4.5], "b": ["x", "y"], "c": [True, None]}
    assert table.column_names == ["a", "b"]


def test_conform_gives_the_record() -> None:
    table = conform(image_rows())
    assert table.schema.equals(SCHEMA) and table.num_rows == 3
    assert table["width"].to_pylist() == [30, 1, None]
    assert table["tags"].to_pylist() == [[], [], []]
    for name in ("caption", "embedding", "round", "fingerprints", "decode", "predicted_iou_floor"):
        assert table[name].null_count == 3
    assert table["extra"].to_pylist() == [[("licence", "CC0")], [], None]
    assert conform(table).equals(table)
    assert conform(image_rows().slice(0, 0)).schema.equals(SCHEMA)


def test_conform_refuses_what_does_not_fit() -> None:
    wide = image_rows().set_column(4, "width", pa.array([1 << 40, 1, 1]))
    with pytest.raises(pa.ArrowInvalid):
        conform(wide)


def test_round_trip_through_parquet(tmp_path: Path) -> None:
    table = conform(image_rows())
    pq.write_table(table, tmp_path / "part.parquet")
    again = pq.read_table(tmp_path / "part.parquet")
    assert again.to_pylist() == table.to_pylist()
    assert conform(again).equals(table)


def test_pandas_reads_it_as_it_is(tmp_path: Path) -> None:
    pq.write_table(conform(image_rows()), tmp_path / "part.parquet")
    frame = pd.read_parquet(tmp_path)
    assert list(frame.columns) == SCHEMA.names
    first, empty, failed = (frame.iloc[index] for index in range(3))
    assert [mask["mask_id"] for mask in first["masks"]] == ["a/0/4", "a/0/5", "a/0/9"]
    assert first["masks"][0]["bbox"].tolist() == [3, 2, 17, 10] and first["masks"][0]["bbox"].dtype == np.int32
    assert first["masks"][2]["drop_reason"] == "predicted_iou"
    assert np.array_equal(decode_masks(list(first["rles"]), 20, 30), MASKS)
    assert list(first["raw_rles"]) == [RLES[1], None, None]
    assert len(empty["masks"]) == len(empty["rles"]) == 0
    assert failed["status"] == "failed" and failed["error"].startswith("decode: ") and len(failed["masks"]) == 0


def test_duckdb_queries_it_as_it_is(tmp_path: Path) -> None:
    table = conform(image_rows())
    pq.write_table(table, tmp_path / "part-0.parquet")
    pq.write_table(table, tmp_path / "part-1.parquet")
    unnested = f"(select image_id, unnest(masks) m from '{tmp_path}/*.parquet')"
    with duckdb.connect() as connection:
        count = f"select count(*) from {unnested} where m.keep and m.predicted_iou > .9"
        assert connection.execute(count).fetchall() == [(4,)]
        boxes = f"select distinct m.mask_id, m.bbox, m.area from {unnested} where not m.keep"
        assert connection.execute(boxes).fetchall() == [("a/0/9", [0, 0, 0, 0], 0)]
        licences = f"select extra['licence'] from '{tmp_path}/part-0.parquet' where image_id = 'a'"
        assert connection.execute(licences).fetchall() == [("CC0",)]
        failed = f"select status, count(*) from '{tmp_path}/*.parquet' group by 1 order by 1"
        assert connection.execute(failed).fetchall() == [("failed", 2), ("ok", 4)]
