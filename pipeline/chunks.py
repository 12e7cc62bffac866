"""Chunks: numbered groups of images, the unit of commit. One chunk becomes one part file."""

from dataclasses import dataclass

import pyarrow as pa

from pipeline.listing import LISTING


@dataclass(frozen=True)
class Chunk:
    """Images whose rows go into part number `part`; a part that `exists` keeps its other rows."""

    part: int
    images: pa.Table  # LISTING
    exists: bool


def plan_chunks(listing: pa.Table, committed: pa.Table, commit_every: int, retry_failed: bool) -> list[Chunk]:
    """What is left to do: a set difference of the listing and what is committed.

    New images form new chunks behind the last part. An image that changed (its `source_etag` differs) or, with
    `retry_failed`, failed is redone within the part that holds it, so that each image always stands in one part.
    """
    done = {
        image_id: (etag, status, part)
        for image_id, etag, status, part in zip(*(column.to_pylist() for column in committed.columns), strict=True)
    }
    new: list[int] = []
    redo: dict[int, list[int]] = {}
    for index, (image_id, etag) in enumerate(
        zip(listing["image_id"].to_pylist(), listing["source_etag"].to_pylist(), strict=True)
    ):
        if image_id not in done:
            new.append(index)
            continue
        known_etag, status, part = done[image_id]
        if etag != known_etag or (retry_failed and status == "failed"):
            redo.setdefault(part, []).append(index)
    chunks = [Chunk(part, listing.take(pa.array(indices)), exists=True) for part, indices in sorted(redo.items())]
    first = max((part for _, _, part in done.values()), default=-1) + 1
    for number, start in enumerate(range(0, len(new), commit_every)):
        images = listing.take(pa.array(new[start : start + commit_every]))
        chunks.append(Chunk(first + number, images, exists=False))
    assert all(chunk.images.schema.equals(LISTING) for chunk in chunks)
    return chunks
