"""Which images there are: every source of a recipe's `input`, each image once."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import store_failure
from pipeline.sources.credentials import refuse_credentials
from pipeline.sources.files import IMAGE_SUFFIXES, list_files
from pipeline.sources.gather import gathered
from pipeline.sources.globs import MAGIC, filter_regex
from pipeline.sources.listing_schema import LISTING
from pipeline.sources.manifest import MANIFEST_SUFFIXES, list_manifest
from pipeline.sources.notes import ListingNotes, lines
from pipeline.sources.spill import spilled
from stages.address import is_archive
from stages.read_source import file_info


def list_images(
    source: str | Sequence[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    notes: ListingNotes | None = None,
) -> pa.Table:
    """Every image of the sources as a table LISTING, each `image_id` once; it lies on disk (`spilled`), from the first
    page on.

    A source is a folder, a glob or a file of any store, a `.tar` archive or a glob of them, or a manifest (`.parquet`
    or `.csv`). Of one source the id is the path below its root; of a list it is the whole URI, so that ids stay what
    they are when the list grows. `include` and `exclude` are globs over ids: an image stays if it matches any of
    `include` (when there are some) and none of `exclude`. `notes` counts what else was seen, by reason.

    Raises ValueError for an input that does not exist, cannot be read, holds credentials or holds no image,
    and RunError where its store does not answer now.
    """
    notes = ListingNotes() if notes is None else notes
    sources = [source] if isinstance(source, str) else list(source)
    listed = [_list_source(one, len(sources) > 1, include, exclude, notes) for one in sources]
    listing = _each_once(pa.concat_tables([LISTING.empty_table(), *listed]))
    if listing.num_rows == 0:
        named = ", ".join(map(repr, sources))
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        chosen = " that include and exclude leave" if include or exclude else ""
        seen = f"; {'; '.join(lines(notes.as_dict()))}" if notes.not_taken else ""
        raise ValueError(
            f"input: {named} holds no images{chosen} ({kinds}){seen}; check the path, and name archives as FOLDER/*.tar"
        )
    return listing


def _list_source(
    source: str, whole_ids: bool, include: Sequence[str], exclude: Sequence[str], notes: ListingNotes
) -> pa.Table:
    refuse_credentials("input", source)
    own_folders: set[str] = set()
    try:
        is_manifest = source.lower().endswith(MANIFEST_SUFFIXES) and not MAGIC.search(source) and not _is_folder(source)
        table = spilled(
            _chosen(_with_whole_ids(table) if whole_ids else table, include, exclude)
            for table in (list_manifest(source) if is_manifest else list_files(source, notes, own_folders))
        )
        if own_folders:
            table = spilled(_without_own(rows, own_folders, notes) for rows in table.to_batches())
    except ValueError:
        raise
    except Exception as error:  # each store has errors of its own kinds
        remedy = "check the path, its permissions and, of a bucket, the credentials"
        raise store_failure(f"input: {source!r} cannot be read", error, remedy) from None
    if is_manifest and not _all_differ(table):
        table = spilled(gathered(table, notes))
    in_order = is_manifest or is_archive(source) or _is_sorted(table["image_id"])
    return table if in_order else spilled([table.sort_by("image_id")])


def _without_own(rows: pa.RecordBatch, own_folders: set[str], notes: ListingNotes) -> pa.Table:
    own = pc.match_substring_regex(rows["uri"], "^(?:" + "|".join(map(re.escape, sorted(own_folders))) + ")/")
    notes.leave_out_many("pictures of datasets and exports", pc.sum(own).as_py() or 0)
    return pa.table(rows).filter(pc.invert(own))


def _is_folder(source: str) -> bool:
    info = file_info(source)
    return info is not None and info["type"] == "directory"


def _is_sorted(ids: pa.ChunkedArray) -> bool:
    return len(ids) < 2 or bool(pc.all(pc.less_equal(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py())


def _with_whole_ids(table: pa.Table) -> pa.Table:
    return table.set_column(0, "image_id", table["uri"])


def _chosen(table: pa.Table, include: Sequence[str], exclude: Sequence[str]) -> pa.Table:
    ids = table["image_id"]
    if include:
        table = table.filter(_matches(ids, include))
        ids = table["image_id"]
    return table.filter(pc.invert(_matches(ids, exclude))) if exclude else table


def _matches(ids: pa.ChunkedArray, patterns: Sequence[str]) -> Any:
    return pc.match_substring_regex(ids, "|".join(map(filter_regex, patterns)))


def _all_differ(table: pa.Table) -> bool:
    all_differ = pc.count_distinct(table["image_id"]).as_py() == table.num_rows
    pa.default_memory_pool().release_unused()  # of which counting a million leaves 100 MB
    return bool(all_differ)


def _each_once(table: pa.Table) -> pa.Table:
    """The first row of each id, in order."""
    if _all_differ(table):
        return table
    ids = table["image_id"].combine_chunks()
    distinct = pc.unique(ids)
    first = np.full(len(distinct), len(ids), np.int64)
    np.minimum.at(first, pc.index_in(ids, value_set=distinct).to_numpy(), np.arange(len(ids)))
    return table.take(pa.array(first))
