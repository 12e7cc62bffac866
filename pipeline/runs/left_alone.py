"""Images that a run does not touch: those that were taken down, and those that hold masks from outside."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.index import read_index
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


def without_dropped(listing: pa.Table, folder: Folder) -> pa.Table:
    """The images of a listing that nobody has taken down with `maskfoundry drop`."""
    return read_index(folder).dropped.leave_out(listing)


def without_labelled(listing: pa.Table, folder: Folder) -> pa.Table:
    """The images of a listing for which no published import holds masks: those stay as people left them."""
    for number in read_index(folder).published:
        target = Round(folder, number)
        if "imported" not in (target.read_record() or {}):
            continue
        for part in target.parts():
            rows = target.read_part(part, ["image_id", "status"])
            listing = _without(listing, rows.filter(pc.equal(rows["status"], "ok"))["image_id"].combine_chunks())
    return listing


def _without(listing: pa.Table, ids: pa.Array) -> pa.Table:
    return listing.filter(pc.invert(pc.is_in(listing["image_id"], value_set=ids))) if len(ids) else listing
