"""Images in tar archives (SA-1B, WebDataset): their names and places, so that a worker reads each with one request."""

import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.sources.listing_schema import in_batches
from stages.read_source import open_archive, tar_members
from stages.retry import retried

NUM_AT_ONCE = 8  # archives whose headers are read at the same time


def list_archives(archives: Sequence[tuple[str, str, str]], suffixes: tuple[str, ...]) -> Iterator[Any]:
    """Tables of a listing of (image_id, uri, etag) archives: one row an image, `uri!member`, in the archives' order.

    Only members with an image suffix count; their texts and labels do not. A damaged archive gives the members before
    the damage, and a row of its own that a worker will mark as failed.
    """

    def tables(archive: tuple[str, str, str]) -> list[Any]:
        return retried(lambda: list(in_batches(_rows(*archive, suffixes))))

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        for listed in pool.map(tables, archives):
            yield from listed


def _rows(image_id: str, uri: str, tag: str, suffixes: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    try:
        with open_archive(uri) as file:
            for member in tar_members(file):
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                if name.lower().endswith(suffixes):
                    yield f"{image_id}!{name}", f"{uri}!{name}", tag, member.offset, member.size
    except tarfile.TarError:
        yield image_id, uri, tag, None, None
