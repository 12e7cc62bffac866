"""Image rows as flat streams for SQL, one row an image or one row a mask, of the columns that are asked for alone.

DuckDB reads a list of structs whole, whatever fields a question names; Arrow reads single fields of it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.part_files import read_part_file
from pipeline.store.storage import Folder
from stages.record import MASK, SCHEMA, cast_column

READS_AT_ONCE = 2  # on disk; more only wait for the cores
READS_AT_ONCE_OF_STORES = 16

MASK_FIELDS = [field.name for field in MASK]
IMAGE_FIELDS = [name for name in SCHEMA.names if name not in ("masks", "rles", "raw_rles")]
# A mask's own caption and tags hide its image's, which therefore get another name beside a mask.
BESIDE_A_MASK = {f"image_{name}" if name in MASK_FIELDS else name: name for name in IMAGE_FIELDS}

# `keeps`: which of the image's masks are kept
IMAGE_ROWS = pa.schema([*(SCHEMA.field(name) for name in IMAGE_FIELDS), ("keeps", pa.list_(pa.bool_()))])
MASK_ROWS = pa.schema([*MASK, *(SCHEMA.field(name).with_name(shown) for shown, name in BESIDE_A_MASK.items())])

Source = Callable[[set[str], set[str]], pa.Table]  # image rows with at least these columns and fields of masks


class Scan:
    """`sources` as rows of the schema IMAGE_ROWS or MASK_ROWS, read anew by everyone who asks for its Arrow stream.

    `error` is what kept a source from being read, as a reader in C learns no more than that there was one.
    """

    def __init__(self, schema: pa.Schema, sources: Sequence[Source], reads_at_once: int) -> None:
        self.schema = schema
        self.sources = sources
        self.reads_at_once = reads_at_once
        self.of_masks = schema.names == MASK_ROWS.names
        self.error: Exception | None = None

    def narrow(self, names: set[str]) -> None:
        """Give these columns only, or the first one where there is none of them."""
        self.schema = pa.schema([field for field in self.schema if field.name in names] or [self.schema.field(0)])

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        batches = pa.RecordBatchReader.from_batches(self.schema, self._batches())
        return batches.__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """In the order of the sources, the next ones being read meanwhile."""
        ahead: deque[Future[pa.RecordBatch]] = deque()
        with ThreadPoolExecutor(self.reads_at_once) as pool:
            for source in self.sources:
                ahead.append(pool.submit(self._read, source))
                if len(ahead) > self.reads_at_once:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read(self, source: Source) -> pa.RecordBatch:
        try:
            return self._mask_rows(source) if self.of_masks else self._image_rows(source)
        except Exception as error:  # each store has errors of its own kinds
            self.error = error
            raise

    def _image_rows(self, source: Source) -> pa.RecordBatch:
        names = set(self.schema.names)
        rows = source(names - {"keeps"}, {"keep"} if "keeps" in names else set())
        columns = []
        for field in self.schema:
            if field.name == "keeps":
                masks = rows["masks"].combine_chunks()
                keeps = pc.struct_field(masks.flatten(), "keep")
                counts = pc.fill_null(pc.list_value_length(masks), 0)
                offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(counts).cast(pa.int32())])
                columns.append(pa.ListArray.from_arrays(offsets, keeps))
            else:
                columns.append(_column(rows, field, field.name))
        return pa.record_batch(columns, schema=self.schema)

    def _mask_rows(self, source: Source) -> pa.RecordBatch:
        names = set(self.schema.names)
        wanted = {BESIDE_A_MASK[name] for name in names & BESIDE_A_MASK.keys()}
        rows = source(wanted, names & {*MASK_FIELDS} or {"keep"})
        masks = rows["masks"].combine_chunks()
        owner = pc.list_parent_indices(masks) if wanted else None
        flat = masks.flatten()
        columns = []
        for field in self.schema:
            if field.name in BESIDE_A_MASK:
                columns.append(_column(rows, field, BESIDE_A_MASK[field.name]).take(owner))
            elif flat.type.get_field_index(field.name) >= 0:
                columns.append(pc.struct_field(flat, field.name).cast(field.type))
            else:
                columns.append(pa.nulls(len(flat), field.type))
        return pa.record_batch(columns, schema=self.schema)


def part_source(folder: Folder, name: str) -> Source:
    """A committed part file, which is read as far as is asked; what it lacks is left out."""

    def read(columns: set[str], fields: set[str]) -> pa.Table:
        names = [*columns, *(f"masks.list.element.{field}" for field in fields)]
        return read_part_file(folder, name, names, use_threads=False)

    return read


def _column(rows: pa.Table, field: pa.Field, name: str) -> pa.Array:
    """Column `name` of the field's type; nulls where the rows lack it."""
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows, field.type)
    return cast_column(rows[name], field.type).combine_chunks()
