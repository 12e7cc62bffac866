"""The masks of a batch of image rows, all of their columns at once, so that no column is left behind by another."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.record import EMBEDDING_COLUMNS, MASK_COLUMNS, SCHEMA, as_lists, mask_structs


class UnequalListsError(ValueError):
    """Columns of an image's masks that do not hold one value a mask."""


LISTS = (*MASK_COLUMNS, *EMBEDDING_COLUMNS)
_TYPES = {name: SCHEMA.field(name).type.value_type for name in LISTS}


@dataclass(frozen=True)
class MaskColumns:
    """The N masks of R image rows: `flat` holds each of the record's columns of masks (LISTS) as an array of N, row
    after row; `lengths` (R,) the masks a row; `embedded` (R,) which rows hold a list of embeddings at all.

    An embedding stands beside the hash of itself and the run lengths that it was computed from, and goes when they
    change.
    """

    flat: dict[str, pa.Array]
    lengths: np.ndarray
    embedded: np.ndarray

    @classmethod
    def of(cls, batch: pa.Table) -> "MaskColumns":
        """The masks of a table's rows, which may lack the columns of embeddings. Raises UnequalListsError, naming the
        image."""
        refuse_unequal_lists(batch, MASK_COLUMNS, EMBEDDING_COLUMNS)
        lengths = _lengths(_one_chunk(batch["masks"]))
        flat = {name: _one_chunk(batch[name]).flatten() for name in MASK_COLUMNS}
        columns = {name: _one_chunk(batch[name]) for name in EMBEDDING_COLUMNS if name in batch.column_names}
        flat |= {name: pa.nulls(len(flat["masks"]), _TYPES[name]) for name in EMBEDDING_COLUMNS}
        flat |= {name: _filled(column, lengths) for name, column in columns.items()}
        embedded = np.zeros(len(lengths), bool)
        if "mask_embeddings" in columns:
            embedded = np.asarray(pc.is_valid(columns["mask_embeddings"]))
        return cls(flat, lengths, embedded)

    @classmethod
    def made(cls, structs: pa.StructArray, rles: Sequence[bytes], lengths: Sequence[int]) -> "MaskColumns":
        """New masks as the record's structs with their run lengths, cut into rows of `lengths`."""
        flat = {"masks": structs, "rles": pa.array(rles, pa.binary())}
        flat |= {name: pa.nulls(len(structs), _TYPES[name]) for name in LISTS if name not in flat}
        return cls(flat, np.array(lengths, np.int64), np.zeros(len(lengths), bool))

    @classmethod
    def stacked(cls, batches: Sequence["MaskColumns"]) -> "MaskColumns":
        """The rows of all, one batch after the other."""
        none = cls.made(mask_structs({}, 0), [], [])
        batches = [none, *batches]
        flat = {name: pa.concat_arrays([one.flat[name] for one in batches]) for name in LISTS}
        return cls(
            flat,
            np.concatenate([one.lengths for one in batches]),
            np.concatenate([one.embedded for one in batches]),
        )

    def __len__(self) -> int:
        """The number of masks."""
        return len(self.flat["masks"])

    @property
    def owner(self) -> np.ndarray:
        """(N,), the row of each mask."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def field(self, name: str) -> pa.Array:
        """(N,), one field of the masks' structs."""
        return pc.struct_field(self.flat["masks"], name)

    def row(self, index: int) -> "MaskColumns":
        """The masks of one row alone."""
        start = int(self.lengths[:index].sum())
        flat = {name: values.slice(start, int(self.lengths[index])) for name, values in self.flat.items()}
        return MaskColumns(flat, self.lengths[index : index + 1], self.embedded[index : index + 1])

    def take(self, indices: np.ndarray) -> "MaskColumns":
        """The masks at `indices`, in that order within each row. Raises ValueError where a row's are not together."""
        owner = self.owner[indices]
        if (np.diff(owner) < 0).any():
            raise ValueError("masks are taken row by row; sort the indices by the row that they belong to")
        flat = {name: values.take(pa.array(indices, pa.int64())) for name, values in self.flat.items()}
        return MaskColumns(flat, np.bincount(owner, minlength=len(self.lengths)), self.embedded)

    def filter(self, flags: np.ndarray) -> "MaskColumns":
        """The masks whose flag, of (N,) bool, is set."""
        if flags.all():  # as in most images, and copying their structs takes longer than looking
            return self
        return self.take(np.flatnonzero(flags))

    def joined(self, other: "MaskColumns") -> "MaskColumns":
        """Each row's masks, and behind them those of the same row of `other`."""
        if not len(other):
            return replace(self, embedded=self.embedded | other.embedded)
        flat = {name: pa.concat_arrays([self.flat[name], other.flat[name]]) for name in LISTS}
        order = np.argsort(np.concatenate([self.owner, other.owner]), kind="stable")
        both = {name: values.take(pa.array(order, pa.int64())) for name, values in flat.items()}
        return MaskColumns(both, self.lengths + other.lengths, self.embedded | other.embedded)

    def with_fields(self, changed: dict[str, pa.Array]) -> "MaskColumns":
        """The masks with fields of their structs, (N,) each, replaced."""
        structs = self.flat["masks"]
        fields = list(structs.type)
        arrays = [changed.get(field.name, pc.struct_field(structs, field.name)) for field in fields]
        return replace(self, flat=self.flat | {"masks": pa.StructArray.from_arrays(arrays, fields=fields)})

    def with_rles(self, rles: Sequence[bytes], raw_rles: Sequence[bytes | None]) -> "MaskColumns":
        """The masks with other run lengths, N of each; a mask that they change loses its embedding."""
        new = {"rles": pa.array(rles, pa.binary()), "raw_rles": pa.array(raw_rles, pa.binary())}
        same = pc.equal(new["rles"], self.flat["rles"])
        kept = {name: pc.if_else(same, self.flat[name], pa.scalar(None, _TYPES[name])) for name in EMBEDDING_COLUMNS}
        return replace(self, flat=self.flat | new | kept)

    def with_embeddings(self, embeddings: Sequence[bytes | None], embedded: np.ndarray) -> "MaskColumns":
        """The masks with the embeddings that were computed from their run lengths, of the rows that are `embedded`."""
        rles = self.flat["rles"].to_pylist()
        hashes = [None if one is None else embedding_hash(rle, one) for rle, one in zip(rles, embeddings, strict=True)]
        columns = {"mask_embeddings": pa.array(embeddings, pa.binary()), "embedding_hashes": hashes}
        flat = {name: pa.array(values, _TYPES[name]) for name, values in columns.items()}
        return MaskColumns(self.flat | flat, self.lengths, embedded)

    def columns(self) -> dict[str, pa.Array]:
        """The record's columns, one list a row; rows that are not embedded have none of embeddings."""
        lists: dict[str, pa.Array] = {name: as_lists(self.flat[name], self.lengths.tolist()) for name in MASK_COLUMNS}
        inside = pa.array(self.embedded[self.owner], pa.bool_())
        lengths = np.where(self.embedded, self.lengths, 0).tolist()
        for name in EMBEDDING_COLUMNS:
            found = as_lists(self.flat[name].filter(inside), lengths)
            lists[name] = pc.if_else(pa.array(self.embedded, pa.bool_()), found, pa.scalar(None, found.type))
        return lists


def embedding_hash(rle: bytes, vector: bytes) -> bytes:
    """Eight bytes that tell of which mask's run lengths a vector is the embedding, whatever happens to the columns."""
    return hashlib.sha256(rle + vector).digest()[:8]


def without_embeddings(rows: pa.Table) -> pa.Table:
    """The rows with no features, neither of the images nor of their masks."""
    names = ("embedding", *EMBEDDING_COLUMNS)
    absent: dict[str, Any] = {name: pa.nulls(rows.num_rows, SCHEMA.field(name).type) for name in names}
    return pa.table({**{name: rows[name] for name in rows.column_names if name not in names}, **absent})


def refuse_unequal_lists(rows: pa.Table, columns: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raises UnequalListsError, naming the image or video, where a row's lists in `columns` are not equally long; those
    of `optional` columns may be null, or the whole column absent."""
    first, *others = columns  # chunk by chunk: run lengths in one array may not pass 2 GiB
    expected = _lengths(rows[first])
    for name in (*others, *(name for name in optional if name in rows.column_names)):
        column = rows[name]
        lengths = _lengths(column)
        if name in optional:
            lengths = np.where(np.asarray(pc.is_valid(column)), lengths, expected)
        if (wrong := np.flatnonzero(lengths != expected)).size:
            index = int(wrong[0])
            subject = next(name for name in ("masklet_id", "video_id", "image_id") if name in rows.column_names)
            raise UnequalListsError(
                f"{subject} {rows[subject][index].as_py()!r}: {expected[index]} {first}, but {lengths[index]} {name}"
            )


def _filled(column: pa.ListArray, lengths: np.ndarray) -> pa.Array:
    """The values of the lists that are there, and nulls for the rows without one."""
    inside = np.repeat(np.asarray(pc.is_valid(column)), lengths)
    places = np.cumsum(inside) - 1
    return column.flatten().take(pa.array(places, pa.int64(), mask=~inside))


def _lengths(column: pa.ListArray | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
