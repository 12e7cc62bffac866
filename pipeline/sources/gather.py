"""Manifests of a row a box: the rows of an image become one."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.listing_schema import LISTING, listing_table
from pipeline.sources.manifest import PROMPT_WIDTHS, prompts_hash
from pipeline.sources.notes import ListingNotes

ROWS_AT_ONCE = 1 << 14  # that stand as Python objects


def gathered(table: pa.Table, notes: ListingNotes) -> Iterator[pa.Table]:
    """Tables of a manifest's listing with each image once, in the order of their first rows.

    Its boxes and points are those of all its rows, in their order. A column of `extra` (a box's label, say) stays as it
    is where the rows agree, and is else a JSON list of their values, in the same order; `notes` names it. A row that
    repeats another in everything counts once.
    """
    ids = table["image_id"].combine_chunks()
    image_of_row = pc.index_in(ids, value_set=pc.unique(ids)).to_numpy()
    rows = np.argsort(image_of_row, kind="stable")
    starts = np.flatnonzero(np.diff(image_of_row[rows], prepend=-1))
    ends = np.append(starts[1:], len(rows))
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + ROWS_AT_ONCE, side="right")))
        start, end = int(starts[first]), int(ends[last - 1])
        some = table.take(pa.array(rows[start:end]))
        yield some if end - start == last - first else _joined(some, starts[first:last] - start, notes)
        first = last


def _joined(rows: pa.Table, starts: np.ndarray, notes: ListingNotes) -> pa.Table:
    plain = rows.to_pylist()
    images = [_one_row(plain[start:end], notes) for start, end in zip(starts, [*starts[1:], len(plain)], strict=True)]
    columns = {field.name: pa.array([image[field.name] for image in images], field.type) for field in LISTING}
    return listing_table(len(images), columns)


def _one_row(rows: list[dict[str, Any]], notes: ListingNotes) -> dict[str, Any]:
    distinct = list({json.dumps(row, sort_keys=True): row for row in rows}.values())
    notes.gathered_rows += len(rows) - 1
    image = dict(distinct[0])
    if len(distinct) == 1:
        return image
    for name in PROMPT_WIDTHS:
        prompts = [row[name] for row in distinct if row[name] is not None]
        image[name] = [prompt for some in prompts for prompt in some] if prompts else None
    image["prompts_hash"] = prompts_hash(image["boxes"], image["points"])
    image["source_etag"] = _agreed("source_etag", [row["source_etag"] for row in distinct], notes)
    extras = [dict(row["extra"] or []) for row in distinct]
    image["extra"] = [(name, _agreed(name, [extra[name] for extra in extras], notes)) for name in extras[0]]
    return image


def _agreed(name: str, values: list[str | None], notes: ListingNotes) -> str | None:
    if len(set(values)) == 1:
        return values[0]
    notes.differing_columns.add(name)
    return json.dumps(values, ensure_ascii=False)
