"""Chunks: numbered groups of images, the unit of commit. One chunk becomes one part file."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.shards import Shard, part_after

# A graph takes in so many images, of whose blocks the driver holds all (about 5 kB an image): enough that starting the
# next graph's actors is a small part of the time, however many actors there are.
MIN_IMAGES_PER_GRAPH = 1 << 14
IMAGES_PER_ACTOR = 1 << 11
FIRST_GRAPH = 16  # of several graphs the first takes in this fraction: Ray needs 0.4 ms of the driver to take an image


@dataclass(frozen=True)
class Chunk:
    """Images whose rows go into part number `part`; a part that `exists` keeps its other rows."""

    part: int
    images: pa.Table  # LISTING
    exists: bool


@dataclass(frozen=True)
class Plan:
    """What is left to do, cut into chunks only as one asks for them: `redo` (sorted by its column `part`) in the parts
    that hold those images, then `new` in parts from `first_new_part` on, every `part_step`-th."""

    new: pa.Table
    redo: pa.Table
    first_new_part: int
    commit_every: int
    part_step: int = 1

    @property
    def num_images(self) -> int:
        return int(self.new.num_rows + self.redo.num_rows)

    def __iter__(self) -> Iterator[Chunk]:
        parts = self.redo["part"].to_numpy()
        borders = np.flatnonzero(np.diff(parts, prepend=-1, append=-1)).tolist()
        images = self.redo.drop_columns(["part"])
        for start, stop in pairwise(borders):
            yield Chunk(int(parts[start]), images.slice(start, stop - start), exists=True)
        for number, start in enumerate(range(0, self.new.num_rows, self.commit_every)):
            yield Chunk(
                self.first_new_part + number * self.part_step, self.new.slice(start, self.commit_every), exists=False
            )

    def in_groups(self, num_actors: int) -> Iterator[list[Chunk]]:
        """Lists of chunks: what one graph takes in, so that neither the driver nor Ray holds blocks for a bucket."""
        full = max(MIN_IMAGES_PER_GRAPH, IMAGES_PER_ACTOR * num_actors)
        max_images = full if self.num_images <= full else full // FIRST_GRAPH
        group: list[Chunk] = []
        num_images = 0
        for chunk in self:
            group.append(chunk)
            num_images += chunk.images.num_rows
            if num_images >= max_images:
                yield group
                group, num_images, max_images = [], 0, full
        if group:
            yield group


def plan_chunks(
    listing: pa.Table, committed: pa.Table, commit_every: int, retry_failed: bool, shard: Shard | None = None
) -> Plan:
    """What is left to do: a hash join of the listing and what is committed.

    New images form new chunks behind the last part. An image that changed (its `source_etag` is known and differs, or
    its prompts do) or, with `retry_failed`, failed is redone within the part that holds it, so that each image always
    stands in one part.
    """
    last_part = pc.max(committed["part"]).as_py()
    first_new_part = part_after(-1 if last_part is None else last_part, shard)
    part_step = shard.count if shard else 1
    if committed.num_rows == 0:
        redo = _with_parts(listing.slice(0, 0), pa.array([], pa.int32()))
        return Plan(listing, redo, first_new_part, commit_every, part_step)
    where = pc.index_in(listing["image_id"], value_set=committed["image_id"].combine_chunks()).combine_chunks()
    is_new = pc.is_null(where)
    redo = pc.fill_null(pc.not_equal(listing["source_etag"], committed["source_etag"].take(where)), False)
    prompts = [pc.fill_null(one, "") for one in (listing["prompts_hash"], committed["prompts_hash"].take(where))]
    redo = pc.or_(redo, pc.and_(pc.invert(is_new), pc.not_equal(*prompts)))
    if retry_failed:
        redo = pc.or_(redo, pc.fill_null(pc.equal(committed["status"].take(where), "failed"), False))
    again = _with_parts(listing.filter(redo), committed["part"].take(where.filter(redo.combine_chunks())))
    order = np.argsort(again["part"].to_numpy(), kind="stable")
    return Plan(listing.filter(is_new), again.take(pa.array(order)), first_new_part, commit_every, part_step)


def _with_parts(images: pa.Table, parts: pa.Array) -> pa.Table:
    return images.append_column("part", parts)
