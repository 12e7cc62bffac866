from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.mask_columns import (
    LISTS,
    MaskColumns,
    UnequalListsError,
    embedding_hash,
    refuse_unequal_lists,
    without_embeddings,
)
from stages.record import EMBEDDING_COLUMNS, MASK_COLUMNS, SCHEMA, conform
from stages.row_masks import Embedding, RowMask, is_embedded, mask_lists, masks_of

Row = dict[str, Any]
SMALL = st.binary(max_size=3)
PATIENT = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def image_rows(draw: st.DrawFn, count: int) -> list[Row]:
    """Rows with masks of which every column says something; some hold no list of embeddings, as an earlier version's
    may hold no hashes beside theirs."""
    rows = []
    for index in range(count):
        masks = [
            RowMask(
                {"mask_id": f"{index}/{draw(st.integers())}", "tags": []},
                draw(SMALL),
                draw(st.none() | SMALL),
                draw(st.none() | st.builds(Embedding, SMALL, st.none() | SMALL)),
            )
            for _ in range(draw(st.integers(0, 4)))
        ]
        row: Row = {"image_id": str(index), **mask_lists(masks, draw(st.booleans()))}
        if draw(st.booleans()):
            row["embedding_hashes"] = None
        rows.append(row)
    return rows


def table(rows: list[Row], split: bool = False) -> pa.Table:
    whole = pa.Table.from_pylist(rows, schema=SCHEMA)
    return pa.concat_tables([whole.slice(0, 1), whole.slice(1)]) if split else whole


def plain(columns: MaskColumns) -> list[Row]:
    """Each row's lists."""
    lists = {name: values.to_pylist() for name, values in columns.columns().items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def expected(rows: list[Row], chosen: list[list[int]]) -> list[Row]:
    """The same by an index into each column of each row, one after the other."""
    found = []
    for row, indices in zip(table(rows).to_pylist(), chosen, strict=True):
        lists = {name: row[name] for name in LISTS}
        if lists["mask_embeddings"] is None:
            lists["embedding_hashes"] = None
        elif lists["embedding_hashes"] is None:
            lists["embedding_hashes"] = [None] * len(row["masks"])
        found.append({k: None if v is None else [v[index] for index in indices] for k, v in lists.items()})
    return found


@PATIENT
@given(st.data(), st.booleans())
def test_slices_and_orders_are_those_of_each_column(data: st.DataObject, split: bool) -> None:
    rows = data.draw(image_rows(data.draw(st.integers(1, 4))))
    columns = MaskColumns.of(table(rows, split))
    counts = [len(row["masks"]) for row in rows]
    assert plain(columns) == expected(rows, [list(range(count)) for count in counts])

    chosen = [data.draw(st.lists(st.integers(0, count - 1)) if count else st.just([])) for count in counts]
    starts = np.cumsum(counts) - counts
    indices = np.array([start + index for start, own in zip(starts, chosen, strict=True) for index in own], np.int64)
    assert plain(columns.take(indices)) == expected(rows, chosen)

    flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(columns), max_size=len(columns))), bool)
    kept = [
        [index for index in range(count) if flags[start + index]] for start, count in zip(starts, counts, strict=True)
    ]
    assert plain(columns.filter(flags)) == expected(rows, kept)

    alone = [columns.row(index) for index in range(len(rows))]
    assert [plain(one) for one in alone] == [[row] for row in plain(columns)]
    assert plain(MaskColumns.stacked(alone)) == plain(columns)


@PATIENT
@given(st.data())
def test_joined_rows_are_the_lists_one_behind_the_other(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    one, two = data.draw(image_rows(count)), data.draw(image_rows(count))
    joined = plain(MaskColumns.of(table(one)).joined(MaskColumns.of(table(two))))
    for first, second, both in zip(table(one).to_pylist(), table(two).to_pylist(), joined, strict=True):
        embedded = is_embedded(first) or is_embedded(second)
        values = [*masks_of(first), *masks_of(second)]
        assert both == mask_lists(values, embedded)


@PATIENT
@given(st.data())
def test_rows_of_plain_values_hold_the_same(data: st.DataObject) -> None:
    rows = table(data.draw(image_rows(2))).to_pylist()
    for row in rows:
        (again,) = plain(MaskColumns.of(table([row | mask_lists(masks_of(row), is_embedded(row))])))
        assert [again] == expected([row], [list(range(len(row["masks"])))])


def rows_of(*masks: list[RowMask], embedded: bool = True) -> list[Row]:
    return [{"image_id": str(index), **mask_lists(own, embedded)} for index, own in enumerate(masks)]


def mask(name: str, embedded: bool = True) -> RowMask:
    rle = name.encode()
    return RowMask(
        {"mask_id": name, "tags": []}, rle, None, Embedding(rle * 2, embedding_hash(rle, rle * 2)) if embedded else None
    )


def test_a_mask_that_changes_loses_its_embedding_and_no_other_does() -> None:
    columns = MaskColumns.of(table(rows_of([mask("a"), mask("b")], [mask("c", False), mask("d")])))
    changed = columns.with_rles([b"a", b"other", b"c", b"d"], [None, b"b", None, None])
    (first, second) = plain(changed)
    assert first["mask_embeddings"] == [b"aa", None] and first["embedding_hashes"] == [
        embedding_hash(b"a", b"aa"),
        None,
    ]
    assert first["rles"] == [b"a", b"other"] and first["raw_rles"] == [None, b"b"]
    assert second["mask_embeddings"] == [None, b"dd"]
    assert mask("a").redrawn(b"a").embedding == mask("a").embedding and mask("a").redrawn(b"x").embedding is None


def test_embeddings_are_bound_to_the_run_lengths_they_were_computed_from() -> None:
    columns = MaskColumns.of(table(rows_of([mask("a", False), mask("b", False)], [mask("c", False)], embedded=False)))
    first, second = plain(columns.with_embeddings([b"1", None, b"3"], np.array([True, False])))
    assert first["mask_embeddings"] == [b"1", None] and first["embedding_hashes"] == [embedding_hash(b"a", b"1"), None]
    assert second["mask_embeddings"] is None and second["embedding_hashes"] is None
    lean = without_embeddings(table(rows_of([mask("a")])))
    assert lean["mask_embeddings"].null_count == lean["embedding_hashes"].null_count == 1
    assert conform(lean).schema.equals(SCHEMA)


@pytest.mark.parametrize("name", [name for name in LISTS if name != "masks"])
def test_unequal_lists_are_refused_by_name(name: str) -> None:
    rows = rows_of([mask("a")], [mask("a"), mask("b")])
    rows[1][name] = rows[1][name][:1]
    for made in (lambda: MaskColumns.of(table(rows)), lambda: refuse_unequal_lists(table(rows), MASK_COLUMNS, LISTS)):
        with pytest.raises(UnequalListsError, match=f"^image_id '1': 2 masks, but 1 {name}$"):
            made()
    with pytest.raises(UnequalListsError, match=r"^image '1': its lists of masks are not equally long"):
        masks_of(table(rows).to_pylist()[1])


def test_rows_without_the_columns_of_embeddings_and_without_any_row() -> None:
    rows = table(rows_of([mask("a"), mask("b")])).drop_columns([*EMBEDDING_COLUMNS])
    (found,) = plain(MaskColumns.of(rows))
    assert found["mask_embeddings"] is None and found["rles"] == [b"a", b"b"]
    none = MaskColumns.of(table([]))
    assert len(none) == 0 and plain(none) == [] and plain(none.joined(none)) == []
    assert plain(none.with_embeddings([], np.zeros(0, bool))) == []


def test_masks_are_taken_row_by_row() -> None:
    columns = MaskColumns.of(table(rows_of([mask("a")], [mask("b")])))
    with pytest.raises(ValueError, match="masks are taken row by row"):
        columns.take(np.array([1, 0]))
