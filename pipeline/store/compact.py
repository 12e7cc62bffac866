"""Merge small parts of a round into larger ones, without a moment at which a reader misses or doubles an image."""

from dataclasses import dataclass

import pyarrow as pa

from pipeline.progress import progress_bar
from pipeline.store.find_rounds import open_round, round_numbers
from pipeline.store.lease import hold_lease
from pipeline.store.part_files import reading_part
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

MAX_PART_BYTES = 1 << 29  # uncompressed: memory of a reader holds a part, and an array of Arrow's ends at 2 GiB


@dataclass(frozen=True)
class Compaction:
    """Parts before and after, over all rounds."""

    parts_before: int
    parts_after: int


def compact(
    dataset: str, images_per_part: int, quiet: bool = False, bytes_per_part: int = MAX_PART_BYTES
) -> Compaction:
    """Merge neighbouring parts of every round while they hold at most `images_per_part` images (of video, masklets)
    and `bytes_per_part` bytes together.

    Raises ValueError if there is no dataset, and RunError if a run is writing it.
    """
    folder = Folder(dataset)
    numbers = round_numbers(folder)
    if not numbers:
        raise ValueError(f"dataset: {dataset!r} holds no rounds; give the folder that a run wrote")
    before = after = 0
    for number in numbers:
        target = open_round(folder, number)
        with hold_lease(target, "compact"):
            before += len(target.parts())
            # parts of one shard only, so that each part goes on being written by one
            groups = [
                (view, group) for view in target.views() for group in plan_merges(view, images_per_part, bytes_per_part)
            ]
            with progress_bar("merging", len(groups), "parts", quiet) as update:
                for done, (view, group) in enumerate(groups, 1):
                    merge_parts(view, group)
                    update(done, "")
            after += len(target.parts())
    return Compaction(before, after)


def plan_merges(target: Round, images_per_part: int, bytes_per_part: int) -> list[list[int]]:
    """Groups of two or more neighbouring parts, in order."""
    groups: list[list[int]] = []
    open_group: list[int] = []
    held_rows = held_bytes = 0
    for part, file in sorted(target.files().items()):
        rows, size = reading_part(
            target.folder,
            f"{target.name}/{file}",
            lambda parquet: (
                parquet.metadata.num_rows,
                sum(parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)),
            ),
        )
        if held_rows + rows > images_per_part or held_bytes + size > bytes_per_part:
            groups.append(open_group)
            open_group, held_rows, held_bytes = [], 0, 0
        open_group.append(part)
        held_rows, held_bytes = held_rows + rows, held_bytes + size
    return [group for group in [*groups, open_group] if len(group) > 1]


def merge_parts(target: Round, sources: list[int]) -> None:
    """One part, of the first one's number, in place of several: one commit, before which readers take the old ones and
    after which the new one."""
    rows = pa.concat_tables([target.read_part(part) for part in sources])
    merged = target.save(sources[0], target.epoch(sources[0]), rows)
    target.commit({sources[0]: merged, **dict.fromkeys(sources[1:])})
