"""A dataset in use: which rows count, and the ways to read them.

from pipeline.dataset import open_dataset

dataset = open_dataset("s3://bucket/dataset").filter("predicted_iou > .92 and area between 1000 and 50000")
for row in dataset.rows():
    mask = dataset.mask(row, 0)  # (H, W) uint8
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.masks.rle import decode_masks
from pipeline.queries.sql import matching_masks
from pipeline.sources.places import dataset_places
from pipeline.store.find_rounds import round_numbers
from pipeline.store.index import read_index
from pipeline.store.part_files import MAX_GROUP_ROWS
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.allowed_places import AllowedPlaces
from stages.mask_columns import MaskColumns, UnequalListsError, refuse_unequal_lists
from stages.record import EMBEDDING_COLUMNS, MASK_COLUMNS, SCHEMA, conform, set_columns

if TYPE_CHECKING:
    import pandas as pd
    import ray.data
    from torch.utils.data import IterableDataset

MAX_BYTES_AT_ONCE = 1 << 30


@dataclass(frozen=True, order=True)
class Part:
    """One part of one round, and the file that holds it: also once that is replaced, for a day."""

    round: int
    number: int
    file: str

    @property
    def name(self) -> str:
        """The file within the dataset."""
        return f"round={self.round:03d}/{self.file}"


@dataclass(frozen=True)
class Dataset:
    """The rows of `rounds`; of an image that stands in several, the newest one's unless `every_round`.

    Only kept masks are given out; with `candidates` the stored rejected ones too. `predicate` is SQL over the columns
    of a mask and its image (`pipeline.queries.sql.MASKS`); masks that do not match are left out, and so are images
    without any. `allow` are places for pictures besides the dataset's own (`picture_places`).
    """

    uri: str
    rounds: tuple[int, ...]
    every_round: bool = False
    candidates: bool = False
    predicate: str | None = None
    allow: tuple[str, ...] = ()

    def allowing(self, places: Iterable[str]) -> Dataset:
        """The same dataset, whose pictures may be read from these folders and prefixes as well."""
        return replace(self, allow=(*self.allow, *places))

    @cached_property
    def picture_places(self) -> AllowedPlaces:
        """Where the rows' pictures may be read: rows may come from strangers, and name any file or address."""
        return dataset_places(self.uri, self.allow)

    def filter(self, predicate: str) -> Dataset:
        """The masks that match as well, as a dataset of its own. Raises ValueError where it is read, if it is wrong."""
        both = predicate if self.predicate is None else f"({self.predicate}\n) and ({predicate}\n)"
        return replace(self, predicate=both)

    def parts(self) -> list[Part]:
        """The committed part files, round by round."""
        folder = Folder(self.uri)
        found = [(one, sorted(Round(folder, one).files().items())) for one in self.rounds]
        return [Part(one, number, file) for one, files in found for number, file in files]

    def read(self, part: Part) -> pa.Table:
        """The rows of one part that count, of the record's schema, with the masks that count.

        Raises UnequalListsError, which is a ValueError, for a part that an earlier version damaged.
        """
        source = Round(Folder(self.uri), part.round)
        rows = source.read_file(part.file)
        try:
            refuse_unequal_lists(rows, MASK_COLUMNS, EMBEDDING_COLUMNS)
        except UnequalListsError as error:
            raise UnequalListsError(
                f"{source.folder.path(part.name)}: {error}; the round is damaged: take it back with `maskfoundry "
                "rollback`, then make it again"
            ) from None
        if not self.every_round and part.round != self.rounds[-1]:
            rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], value_set=self._outdated[part.round])))
        return pa.concat_tables([self._counting(some) for some in _in_pieces(rows)])

    def _counting(self, rows: pa.Table) -> pa.Table:
        rows = self.with_masks(rows)
        if self.predicate is not None:
            rows = rows.filter(pc.greater(pc.list_value_length(rows["masks"]), 0))
        return rows

    def with_masks(self, rows: pa.Table) -> pa.Table:
        """As many rows, with only those of their masks that count."""
        if self.predicate is None and self.candidates:
            return rows
        return _with_masks(rows, self.passing(rows))

    def passing(self, rows: pa.Table) -> np.ndarray:
        """Which masks count, bool, of all rows one after the other; run lengths may be missing."""
        flat = rows["masks"].combine_chunks().flatten()
        keep = pc.struct_field(flat, "keep").to_numpy(zero_copy_only=False)
        passing = np.ones(len(flat), bool) if self.candidates else keep.astype(bool)
        if self.predicate is not None:
            wanted = matching_masks(rows, self.predicate, self.candidates)
            passing = passing & pc.is_in(pc.struct_field(flat, "mask_id"), value_set=wanted).to_numpy(False)
        return passing

    @cached_property
    def _outdated(self) -> dict[int, pa.Array]:
        """For each round the images that stand in a newer one."""
        folder, found, ids = Folder(self.uri), {}, pa.array([], pa.string())
        for number in reversed(self.rounds):
            found[number] = ids
            source = Round(folder, number)
            columns = [source.read_part(part, ["image_id"])["image_id"].combine_chunks() for part in source.parts()]
            ids = pa.concat_arrays([ids, *columns])
        return found

    def tables(self) -> Iterator[pa.Table]:
        """`read` of every part, part by part: memory holds one."""
        return (table for part in self.parts() if (table := self.read(part)).num_rows)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Image rows as plain values."""
        for table in self.tables():
            yield from table.to_pylist()

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """All rows in memory, or some of their columns."""
        names = columns or SCHEMA.names
        schema = pa.schema([SCHEMA.field(name) for name in names])
        return pa.concat_tables([schema.empty_table(), *(table.select(names) for table in self.tables())])

    def to_pandas(self, columns: list[str] | None = None) -> pd.DataFrame:
        """All rows in memory as a data frame."""
        return self.to_arrow(columns).to_pandas()

    def to_torch(self) -> IterableDataset[dict[str, Any]]:
        """The rows for a DataLoader, whose workers share the parts."""
        from pipeline.queries.torch_rows import TorchRows

        return TorchRows(self)

    def to_ray(self) -> ray.data.Dataset:
        """The rows as a Ray Dataset, one task a part; Ray starts if it has not."""
        import ray.data

        parts = [asdict(part) for part in self.parts()]

        def read(batch: dict[str, np.ndarray]) -> pa.Table:
            (one,) = pa.table(batch).to_pylist()
            return self.read(Part(**one))

        return ray.data.from_items(parts).map_batches(read, batch_size=1)

    @staticmethod
    def mask(row: dict[str, Any], index: int) -> np.ndarray:
        """Mask `index` of a row, (H, W) uint8 of 0 and 1."""
        return decode_masks([row["rles"][index]], row["height"], row["width"])[0]


def open_dataset(uri: str, round: int | None = None, all_rounds: bool = False, candidates: bool = False) -> Dataset:
    """The dataset at a path or fsspec URI: of every image its newest published round, or one `round`, or `all_rounds`.

    Parts that are committed count, so a dataset may be read while it is written. Raises ValueError if there is none.
    """
    folder = Folder(uri)
    present = round_numbers(folder)
    published = [number for number in read_index(folder).published if number in present]
    if not present:
        raise ValueError(f"dataset: {uri!r} holds no rounds; give the folder that a run wrote")
    if round is not None:
        if round not in present:
            raise ValueError(f"round: {round} is not in {uri!r}; it holds {', '.join(map(str, present))}")
        return Dataset(uri, (round,), candidates=candidates)
    return Dataset(uri, tuple(sorted(published)), every_round=all_rounds, candidates=candidates)


def _in_pieces(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows, in pieces where run lengths in one array would pass its 2 GiB."""
    size = rows.num_rows if rows.nbytes <= MAX_BYTES_AT_ONCE else MAX_GROUP_ROWS
    yield from (rows.slice(start, size) for start in range(0, max(1, rows.num_rows), max(1, size)))


def _with_masks(rows: pa.Table, passing: np.ndarray) -> pa.Table:
    """The rows with the `passing` ones of all their masks; a parent that is not among them becomes null."""
    masks = MaskColumns.of(rows).filter(passing)
    parent = masks.field("parent_id")
    there = pc.is_in(parent, value_set=masks.field("mask_id"))
    masks = masks.with_fields({"parent_id": pc.if_else(there, parent, pa.scalar(None, parent.type))})
    return conform(set_columns(rows, masks.columns()))
