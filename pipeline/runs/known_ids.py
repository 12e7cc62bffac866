"""Files that a dataset holds already keep their ids, however the input is named this time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import GoneError
from pipeline.sources.listing_schema import LISTING, listing_table
from pipeline.sources.notes import ListingNotes
from pipeline.sources.spill import spilled
from pipeline.store.find_rounds import round_numbers
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


def with_known_ids(listing: pa.Table, folder: Folder, notes: ListingNotes, id_column: str = "image_id") -> pa.Table:
    """`listing` with the ids under which the dataset's rounds hold the same files (`uri`), where its own ids are new to
    them; else a folder that becomes one of a list, or is named by its parent, would be annotated a second time.

    `notes` counts them. Raises ValueError where two files would go by one id.
    """
    known = spilled(_known(folder, id_column))
    if known.num_rows == 0:
        return listing
    own = listing["image_id"]
    place = pc.index_in(_whole(listing["uri"]), value_set=_whole(known["uri"]).combine_chunks())
    renamed = pc.and_(pc.is_valid(place), pc.invert(pc.is_in(own, value_set=known["image_id"].combine_chunks())))
    count = pc.sum(renamed).as_py() or 0
    if count == 0:
        return listing
    ids = pc.if_else(renamed, known["image_id"].take(place), own)
    if pc.count_distinct(ids).as_py() < len(ids):
        repeated = pc.value_counts(ids.filter(pc.is_in(ids, value_set=ids.filter(renamed).combine_chunks())))
        name = repeated.filter(pc.greater(repeated.field("counts"), 1))[0]["values"].as_py()
        uris = listing["uri"].filter(pc.equal(ids, name)).to_pylist()
        raise ValueError(
            f"input: {uris[0]} and {uris[1]} would both be {name!r} in {folder.uri}; name the input as when the "
            "dataset was made, or choose another output"
        )
    notes.known_ids = count
    return listing.set_column(listing.column_names.index("image_id"), "image_id", ids)


def _known(folder: Folder, id_column: str) -> Iterator[pa.Table]:
    """The files of each part, the newest round's first."""

    def read(part: tuple[Round, int]) -> pa.Table:
        try:
            rows = part[0].read_part(part[1], [id_column, "uri"])
        except GoneError:  # somebody removed a damaged part, and its images are annotated anew
            return LISTING.empty_table()
        if id_column not in rows.column_names:  # videos where images are expected, which the run will refuse
            return LISTING.empty_table()
        return listing_table(rows.num_rows, {"image_id": rows[id_column], "uri": rows["uri"]})

    rounds = [Round(folder, number) for number in reversed(round_numbers(folder))]
    with ThreadPoolExecutor(folder.reads_at_once) as pool:
        yield from pool.map(read, ((target, part) for target in rounds for part in target.parts()))


def _whole(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths of this machine as URIs: imports write those, listings these."""
    return pc.if_else(pc.starts_with(uris, "/"), pc.binary_join_element_wise("file://", uris, ""), uris)
