"""`maskfoundry drop`: take images down, from every round and for good."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RunError
from pipeline.progress import progress_bar
from pipeline.store.dropped import COLUMNS, Dropped, same_address
from pipeline.store.find_rounds import open_round, round_numbers
from pipeline.store.index import change_index
from pipeline.store.lease import hold_lease
from pipeline.store.own_pictures import own_picture
from pipeline.store.part_files import REPLACED
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

REPORT = "report/index.html"


@dataclass(frozen=True)
class DropSummary:
    """`rows` of `images` were removed from `parts` part files. The images that are `in_no_round` are on the list as
    well, so that no run brings them in; `again` were left out as near-duplicates of others, and the next run annotates
    them."""

    images: int
    rows: int
    parts: int
    in_no_round: int
    again: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def drop_images(dataset: str, images: list[str], quiet: bool = False) -> DropSummary:
    """Removes the rows of images or videos, named by id or URI, from every round, and lists everything that they are
    known by (id, URI, sha256 of the content) in the dataset's index, so that nothing brings them back. The report,
    which may show them, is removed too.

    The list is written first, which runs at work heed from then on; after a kill, the same call goes on. Raises
    ValueError if there is no dataset, and RunError if a run is writing a round, whose rows then still stand there.
    """
    folder = Folder(dataset)
    if not round_numbers(folder):
        raise ValueError(f"dataset: {dataset!r} holds no rounds; give the folder that a run wrote")
    addresses = [same_address(image) for image in images if "://" in image or image.startswith("/")]
    named = Dropped(frozenset(images), frozenset().union(*addresses))
    _list(folder, named)
    rows = parts = again = 0
    busy: list[str] = []
    with ExitStack() as stack:
        targets = [open_round(folder, number) for number in round_numbers(folder)]
        held = []
        for target in targets:
            try:
                stack.enter_context(hold_lease(target, "drop"))
                held.append(target)
            except RunError as error:
                busy.append(str(error))
        known, present = _known_by(targets, named)
        dropped = _list(folder, known)
        folder.remove(REPORT)
        places = [(target, part) for target in held for part in target.parts()]
        with progress_bar("dropping", len(places), "parts", quiet) as update:
            for done, (target, part) in enumerate(places, 1):
                gone, freed = _remove(target, part, dropped)
                rows, parts, again = rows + gone, parts + bool(gone), again + freed
                update(done, f"{rows:,} rows")
        for target in targets:
            for name in folder.names(f"{target.name}/{REPLACED}", "part-", ".parquet"):
                folder.remove(name)
    if busy:
        raise RunError(
            f"{busy[0]}; the images are listed, so that it brings in none of them from now on; run the same command "
            "when it has ended, which removes what it had committed before"
        )
    return DropSummary(len(set(images)), rows, parts, len({*images} - present), again)


def _list(folder: Folder, more: Dropped) -> Dropped:
    return change_index(folder, lambda index: replace(index, dropped=index.dropped | more)).dropped


def _known_by(targets: list[Round], named: Dropped) -> tuple[Dropped, set[str]]:
    """Everything that the rows of the `named` images say of them, other ids of the same content included; and which of
    the names stand in a round."""
    while True:
        found = []
        for target in targets:
            for part in target.parts():
                columns = [column for column in COLUMNS if column in target.schema.names]
                rows = target.read_part(part, columns)
                found += rows.filter(named.concerns(rows)).to_pylist()
        more = named | Dropped.of_rows(found)
        if more == named:
            return named, {row[column] for row in found for column in COLUMNS if row.get(column)}
        named = more


def _remove(target: Round, part: int, dropped: Dropped) -> tuple[int, int]:
    """Replaces the part by one without the images, or removes it with its last one: how many rows went, and how many
    others that were left out as their near-duplicates."""
    rows = target.read_part(part)
    gone = dropped.concerns(rows)
    freed = pa.array([False] * rows.num_rows, pa.bool_())
    if "duplicate_of" in rows.column_names:
        is_copy = pc.is_in(rows["duplicate_of"], value_set=pa.array(sorted(dropped.ids), pa.string()))
        freed = pc.and_not(pc.and_(is_copy, pc.equal(rows["status"], "skipped")).combine_chunks(), gone)
    if not (pc.any(gone).as_py() or pc.any(freed).as_py()):
        return 0, 0
    for uri in rows.filter(gone)["uri"].to_pylist():
        if picture := own_picture(target.folder, uri):
            target.folder.remove(picture)
    target.replace_at_once(part, rows.filter(pc.invert(pc.or_(gone, freed))))
    return pc.sum(gone).as_py() or 0, pc.sum(freed).as_py() or 0
