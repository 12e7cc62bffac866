"""A listing that lies on disk: a bucket of ten million keys takes gigabytes, and a run needs few rows at a time."""

import tempfile
from collections.abc import Iterable

import pyarrow as pa

from pipeline.sources.listing_schema import LISTING


def spilled(tables: Iterable[pa.Table]) -> pa.Table:
    """The rows of `tables` (LISTING) in a temporary file, of which the system keeps in memory what is being read and
    what it has room for. The file goes with the table."""
    with tempfile.TemporaryDirectory(prefix="maskfoundry-") as folder:
        path = f"{folder}/listing.arrow"
        with pa.ipc.new_file(path, LISTING) as writer:
            for table in tables:
                writer.write_table(table)
        return pa.ipc.open_file(pa.memory_map(path)).read_all()
