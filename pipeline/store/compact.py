"""Merge small parts of a round into larger ones, without a moment at which a reader misses or doubles an image."""

from dataclasses import dataclass

import pyarrow as pa

from pipeline.progress import progress_bar
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round, round_numbers
from pipeline.store.storage import Folder


@dataclass(frozen=True)
class Compaction:
    """Parts before and after, over all rounds."""

    parts_before: int
    parts_after: int


def compact(dataset: str, images_per_part: int, quiet: bool = False) -> Compaction:
    """Merge neighbouring parts of every round while they hold at most `images_per_part` images together.

    Raises ValueError if there is no dataset, and RunError if a run is writing it.
    """
    folder = Folder(dataset)
    numbers = round_numbers(folder)
    if not numbers:
        raise ValueError(f"dataset: {dataset!r} holds no rounds; give the folder that a run wrote")
    before = after = 0
    for number in numbers:
        target = Round(folder, number)
        with hold_lease(target, "compact"):
            target.finish_merge()
            before += len(target.parts())
            # parts of one shard only, so that each part goes on being written by one
            groups = [(view, group) for view in target.views() for group in plan_merges(view, images_per_part)]
            with progress_bar("merging", len(groups), "parts", quiet) as update:
                for done, (view, group) in enumerate(groups, 1):
                    merge_parts(view, group)
                    target.finish_merge()
                    update(done, "")
            after += len(target.parts())
    return Compaction(before, after)


def plan_merges(target: Round, images_per_part: int) -> list[list[int]]:
    """Groups of two or more neighbouring parts, in order."""
    groups: list[list[int]] = []
    open_group: list[int] = []
    held = 0
    for part in target.parts():
        images = target.count_images(part)
        if held + images > images_per_part:
            groups.append(open_group)
            open_group, held = [], 0
        open_group.append(part)
        held += images
    return [group for group in [*groups, open_group] if len(group) > 1]


def merge_parts(target: Round, sources: list[int]) -> None:
    """One part in place of several. The intention is written first; the new part's appearance is the moment from which
    readers take it and no longer the old ones, which `finish_merge` removes, as it finishes or forgets after a kill."""
    merged = target.next_part()
    rows = pa.concat_tables([target.read_part(part) for part in sources])
    target.begin_merge(merged, sources)
    target.write_part(merged, rows)
