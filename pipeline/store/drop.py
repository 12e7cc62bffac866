"""`maskfoundry drop`: take images down, from every round and for good."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.progress import progress_bar
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import INDEX, Round, read_index, round_numbers
from pipeline.store.storage import Folder

REPORT = "report/index.html"
PICTURES = "pictures"  # those that an import had to keep itself


@dataclass(frozen=True)
class DropSummary:
    """`rows` of `images` were removed from `parts` part files."""

    images: int
    rows: int
    parts: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def drop_images(dataset: str, images: list[str], quiet: bool = False) -> DropSummary:
    """Removes the images' rows from every round, and lists the images in _dataset.json, so that no run or import
    brings them back. The report, which may show them, is removed too.

    The list is written first, and each part replaced as a whole: after a kill, the same call goes on. Raises
    ValueError if there is no dataset or an image is in none of its rounds, and RunError if a run is writing one.
    """
    folder = Folder(dataset)
    numbers = round_numbers(folder)
    if not numbers:
        raise ValueError(f"dataset: {dataset!r} holds no rounds; give the folder that a run wrote")
    wanted = pa.array(sorted(set(images)), pa.string())
    rows = 0
    with ExitStack() as stack:
        targets = [Round(folder, number) for number in numbers]
        for target in targets:
            stack.enter_context(hold_lease(target, "drop"))
            target.finish_merge()
        places = [(target, part) for target in targets for part in target.parts()]
        hits, found = [], set()
        update = stack.enter_context(progress_bar("dropping", len(places), "parts", quiet))
        for done, (target, part) in enumerate(places, 1):
            ids = target.read_part(part, ["image_id"])["image_id"]
            here = ids.filter(pc.is_in(ids, value_set=wanted)).to_pylist()
            if here:
                hits.append((target, part))
                found.update(here)
            update(done, f"{len(found):,} images found")
        index = read_index(folder)
        unknown = {*images} - found - {*index.get("dropped", [])}
        if unknown:
            raise ValueError(f"--image: {min(unknown)!r} is in no round of {dataset!r}; nothing was dropped")
        folder.write_json(INDEX, index | {"dropped": sorted({*index.get("dropped", []), *images})})
        for target, part in hits:
            rows += _without(target, part, wanted)
    folder.remove(REPORT)
    return DropSummary(len(set(images)), rows, len(hits))


def _without(target: Round, part: int, wanted: pa.Array) -> int:
    """Replaces the part by one without the images, or removes it with its last one; how many rows went."""
    rows = target.read_part(part)
    gone = pc.is_in(rows["image_id"], value_set=wanted)
    own = f"{target.folder.path(PICTURES)}/"
    for uri in rows.filter(gone)["uri"].to_pylist():
        name = uri.rpartition(f"/{PICTURES}/")[2]
        if f"{own}{name}" == target.folder.fs._strip_protocol(uri):
            target.folder.remove(f"{PICTURES}/{name}")
    left = rows.filter(pc.invert(gone))
    if left.num_rows:
        target.write_part(part, left)
    else:
        target.remove_part(part)
    return int(rows.num_rows - left.num_rows)
