"""Write the matching part of a dataset as a dataset of its own."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset
from pipeline.progress import progress_bar
from pipeline.sources.places import RECORDED, absolute_places
from pipeline.store.dropped import Dropped
from pipeline.store.index import change_index, publish, read_index
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import set_columns


@dataclass(frozen=True)
class SubsetSummary:
    """What was written to `output`."""

    output: str
    predicate: str | None
    images: int
    masks: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def write_subset(dataset: Dataset, output: str, quiet: bool = False) -> SubsetSummary:
    """The dataset's rows and masks as round 0 of a new dataset; memory holds one part.

    `_run.json` names the source, its rounds with their fingerprints, and the predicate, so that the subset can be made
    again; each row keeps the run and the fingerprints that it came from. Raises ValueError for an output that holds a
    dataset and for `every_round`, and QueryError for a wrong predicate.
    """
    target = Folder(output)
    if dataset.every_round:
        raise ValueError("subset: an image may stand in it once; choose one round, or the newest of each image")
    if read_index(target).published:
        raise ValueError(f"subset: {output!r} holds a dataset already; choose another folder")
    written = Round(target, 0)
    with hold_lease(written, "subset"):
        written.remove_parts()  # of one that was killed
        dropped = _copy_dropped(dataset, target)
        images, masks = _write_parts(dataset, written, quiet)
        while (newer := _copy_dropped(dataset, target)) != dropped:  # taken down meanwhile
            dropped = newer
            for part in written.parts():
                written.replace_at_once(part, written.read_part(part))
        written.write_record(_record(dataset, images, masks))
        publish(target, 0)
    return SubsetSummary(output, dataset.predicate, images, masks)


def _copy_dropped(dataset: Dataset, target: Folder) -> Dropped:
    """What was taken down there stays so here."""
    dropped = read_index(Folder(dataset.uri)).dropped
    change_index(target, lambda index: replace(index, dropped=index.dropped | dropped))
    return dropped


def _write_parts(dataset: Dataset, written: Round, quiet: bool) -> tuple[int, int]:
    """How many images, and masks."""
    images = masks = number = 0
    parts = dataset.parts()
    with progress_bar("selecting", len(parts), "parts", quiet) as update:
        for done, part in enumerate(parts, start=1):
            rows = dataset.read(part)
            if rows.num_rows:
                zero = pa.array(np.zeros(rows.num_rows, np.int32))
                rows = written.write_part(number, set_columns(rows, {"round": zero}))
                number += 1
                images += rows.num_rows
                masks += pc.sum(pc.list_value_length(rows["masks"])).as_py() or 0
            update(done, f"{masks:,} masks")
    return images, masks


def _record(dataset: Dataset, images: int, masks: int) -> dict[str, Any]:
    source = Folder(dataset.uri)
    rounds = {str(one): Round(source, one).read_record() or {} for one in dataset.rounds}
    return {
        "round": 0,
        "subset_of": {
            "dataset": dataset.uri,
            "predicate": dataset.predicate,
            "candidates": dataset.candidates,
            "rounds": {
                one: {name: record.get(name) for name in ("fingerprints", "weights", "recipe", "settings")}
                for one, record in rounds.items()
            },
        },
        RECORDED: [*dataset.picture_places.named, *absolute_places([dataset.uri])],
        "fingerprints": rounds[str(dataset.rounds[-1])].get("fingerprints") if dataset.rounds else None,
        "counts": {"images": images, "masks": masks},
        "runs": [],
    }
