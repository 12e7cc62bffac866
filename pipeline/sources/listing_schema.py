"""One row of a listing: an image, where its bytes are, and what a manifest says about it."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from stages.record import SCHEMA

NUMBERS = pa.list_(pa.list_(pa.float64()))

LISTING = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("source_etag", pa.string()),  # null where only opening the file would tell
        ("offset", pa.int64()),  # of a member in its archive, else null
        ("size", pa.int64()),  # of that member
        ("boxes", NUMBERS),  # prompts instead of the grid: x0, y0, x1, y1
        ("points", NUMBERS),  # x, y
        ("prompts_hash", pa.string()),  # null with the grid
        ("extra", SCHEMA.field("extra").type),
    ]
)

ROWS_PER_BATCH = 1 << 14  # how many rows stand as Python objects at a time


def in_batches(rows: Iterable[tuple[Any, ...]]) -> Iterator[pa.Table]:
    """Tuples (image_id, uri, source_etag, offset, size) as tables of ROWS_PER_BATCH rows."""
    held: list[tuple[Any, ...]] = []
    for row in rows:
        held.append(row)
        if len(held) == ROWS_PER_BATCH:
            yield _table(held)
            held = []
    if held:
        yield _table(held)


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = dict(zip(("image_id", "uri", "source_etag", "offset", "size"), zip(*rows, strict=True), strict=True))
    return listing_table(len(rows), columns)


def listing_table(num_rows: int, columns: dict[str, Any]) -> pa.Table:
    """`columns` of a listing; the others are null."""
    arrays = []
    for field in LISTING:
        values = columns.get(field.name)
        if values is None:
            values = pa.nulls(num_rows, field.type)
        arrays.append(values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type))
    return pa.table(arrays, schema=LISTING)
