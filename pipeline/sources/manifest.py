"""A manifest: a Parquet or CSV table with a `uri` column, one row an image."""

import csv
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.sources.credentials import refuse_credentials
from pipeline.sources.listing_schema import NUMBERS, listing_table
from stages.read_source import open_filesystem

MANIFEST_SUFFIXES = (".parquet", ".csv")
ROWS_PER_BATCH = 1 << 17
PROMPT_WIDTHS = {"boxes": 4, "points": 2}  # x0, y0, x1, y1; x, y

_ABSOLUTE = r"^([A-Za-z][A-Za-z0-9+.-]*://|/)"
_UPWARD = r"(^|/)\.\.(/|$)"


def list_manifest(source: str) -> Iterator[Any]:
    """Tables of a listing, a row each of the manifest's, in its order.

    A relative `uri` is relative to the manifest; the id of an image below the manifest's folder is its path there, of
    another its whole URI. `source_etag`, if there is such a column, tells whether an image changed; without it images
    count as unchanged. `boxes` and `points` (lists, or JSON in CSV) are prompts; every other column goes to `extra` as
    text. Raises ValueError for a table without `uri`, an empty, upward or credential-bearing one, or a nested column.
    """
    fs, path = open_filesystem(source)
    base = fs.unstrip_protocol(path).rpartition("/")[0] + "/"
    first_row = 1
    try:
        with fs.open(path, "rb") as file:
            for table in _read(file, path):
                yield _listing(table, base, source, first_row)
                first_row += table.num_rows
    except pa.ArrowException as error:
        raise ValueError(f"input: {source!r} is not a table that can be read ({error}); check the manifest") from None


def _read(file: Any, path: str) -> Iterator[pa.Table]:
    if path.endswith(".parquet"):
        for batch in pq.ParquetFile(file).iter_batches(ROWS_PER_BATCH):
            yield pa.table(batch)
        return
    names = next(csv.reader([file.readline().decode("utf-8-sig", "replace")]), [])
    file.seek(0)
    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    with pa_csv.open_csv(file, parse_options=parse, convert_options=options) as reader:
        for batch in reader:
            yield pa.table(batch)


def _listing(table: pa.Table, base: str, source: str, first_row: int) -> pa.Table:
    if "uri" not in table.column_names:
        raise ValueError(f"input: {source!r} has no column `uri` (it has {', '.join(table.column_names)}); add one")
    uri, image_id = _addresses(table["uri"].combine_chunks().cast(pa.string()), base, source, first_row)
    columns: dict[str, Any] = {"uri": uri, "image_id": image_id}
    if "source_etag" in table.column_names:
        columns["source_etag"] = table["source_etag"].cast(pa.string())
    for name, width in PROMPT_WIDTHS.items():
        if name in table.column_names:
            columns[name] = _prompts(table[name], name, width, source)
    columns["prompts_hash"] = _hashes(columns.get("boxes"), columns.get("points"), table.num_rows)
    extra = table.drop_columns([name for name in ("uri", "source_etag", *PROMPT_WIDTHS) if name in table.column_names])
    if extra.num_columns:
        columns["extra"] = _extra(extra, source)
    return listing_table(table.num_rows, columns)


def _addresses(uri: pa.StringArray, base: str, source: str, first_row: int) -> tuple[pa.Array, pa.Array]:
    """Whole URIs, and ids."""
    _refuse(pc.or_kleene(pc.is_null(uri), pc.equal(uri, "")), "is empty; give each row a uri", source, first_row)
    refuse_credentials(f"input: {source!r}", uri)
    _refuse(pc.match_substring_regex(uri, _UPWARD), "has a step `..`; give the path itself", source, first_row)
    uri = pc.replace_substring_regex(uri, r"(^|/)(?:\./)+", r"\1")
    absolute = pc.match_substring_regex(uri, _ABSOLUTE)
    whole = pc.if_else(absolute, uri, pc.binary_join_element_wise(base, uri, ""))
    whole = pc.if_else(pc.starts_with(whole, "/"), pc.binary_join_element_wise("file://", whole, ""), whole)
    below = pc.starts_with(whole, base)
    return whole, pc.if_else(below, pc.utf8_slice_codeunits(whole, len(base)), whole)


def _refuse(bad: pa.Array, what: str, source: str, first_row: int) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise ValueError(f"input: {source!r} row {first_row + row}: uri {what}")


def _prompts(column: pa.ChunkedArray, name: str, width: int, source: str) -> pa.Array:
    """Lists of lists of `width` numbers; null where an image brings none, and keeps the grid."""
    values = column.combine_chunks()
    try:
        if pa.types.is_string(values.type):
            values = pa.array([text and json.loads(text) for text in values.to_pylist()], NUMBERS)
        values = values.cast(NUMBERS)
        lengths = pc.unique(pc.list_value_length(values.flatten())).to_pylist()
    except (pa.ArrowException, json.JSONDecodeError) as error:
        raise ValueError(f"input: {source!r} column {name}: not lists of numbers ({error})") from None
    if lengths not in ([], [width]):
        raise ValueError(f"input: {source!r} column {name}: {lengths} numbers in one, give each {width}")
    return values


def _hashes(boxes: pa.Array | None, points: pa.Array | None, num_rows: int) -> pa.Array | None:
    if boxes is None and points is None:
        return None
    both = ([None] * num_rows if one is None else one.to_pylist() for one in (boxes, points))
    return pa.array([prompts_hash(*row) for row in zip(*both, strict=True)], pa.string())


def prompts_hash(boxes: list[list[float]] | None, points: list[list[float]] | None) -> str | None:
    """By which a later run sees that an image's prompts have changed; None where it has none."""
    if boxes is None and points is None:
        return None
    return hashlib.blake2b(json.dumps((boxes, points)).encode(), digest_size=8).hexdigest()


def _extra(table: pa.Table, source: str) -> pa.MapArray:
    """Every column as text, in one map a row."""
    nested = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if nested:
        raise ValueError(f"input: {source!r} column {nested[0]!r} is nested; only plain columns can be carried along")
    num_rows, width = table.num_rows, table.num_columns
    flat = pa.concat_arrays([column.cast(pa.string()).combine_chunks() for column in table.columns])
    by_row = np.arange(num_rows * width).reshape(width, num_rows).T.reshape(-1)
    keys = pa.array(table.column_names, pa.string()).take(pa.array(np.tile(np.arange(width), num_rows)))
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * width)
    return pa.MapArray.from_arrays(offsets, keys, flat.take(pa.array(by_row)))
