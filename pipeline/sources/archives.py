"""Images in tar archives (SA-1B, WebDataset): their names and places, so that a worker reads each with one request."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.sources.listing_schema import in_batches
from pipeline.sources.notes import LITTER, ListingNotes, is_litter
from stages.address import Address
from stages.read_source import index_archive
from stages.retry import retried

NUM_AT_ONCE = 8  # archives whose headers are read at the same time


def list_archives(
    archives: Sequence[tuple[str, str, str]], suffixes: tuple[str, ...], notes: ListingNotes
) -> Iterator[Any]:
    """Tables of a listing of (image_id, uri, etag) archives: one row an image, `uri!member`, in the archives' order.

    Only members with an image suffix are taken; `notes` counts the others. A damaged archive gives the members before
    the damage, and a row of its own that a worker will mark as failed.
    """
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        indexed = pool.map(lambda archive: retried(lambda: index_archive(archive[1])), archives)
        for (image_id, uri, tag), index in zip(archives, indexed, strict=True):
            notes.not_taken.update(index.not_taken)
            rows: list[tuple[Any, ...]] = []
            for name, member in index.members.items():
                if is_litter(name):
                    notes.not_taken[LITTER] += 1
                elif name.lower().endswith(suffixes):
                    names = (str(Address(one, name)) for one in (image_id, uri))
                    rows.append((*names, tag, member.offset, member.size))
                else:
                    notes.leave_out(name)
            if index.damage is not None:
                rows.append((image_id, uri, tag, None, None))
            yield from in_batches(rows)
