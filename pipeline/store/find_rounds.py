"""Which rounds a dataset holds."""

import re

from pipeline.store.index import read_index
from pipeline.store.masklet_round import MaskletRound, holds_masklets
from pipeline.store.rounds import Round
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder


def round_numbers(folder: Folder) -> list[int]:
    """The rounds that stand on disk, in order."""
    names = folder.names("", "round=", "")
    return sorted(int(name[6:]) for name in names if re.fullmatch(r"round=\d{3,}", name))


def open_round(folder: Folder, number: int) -> Round:
    """Of images, or of masklets where a run over videos wrote it."""
    target = Round(folder, number)
    return MaskletRound(folder, number) if holds_masklets(target) else target


def next_round(folder: Folder, shard: Shard | None = None) -> Round:
    """The round after all that hold anything: one in which a run or an import ended before its first commit is free."""
    numbers = round_numbers(folder)
    while numbers and is_empty(Round(folder, numbers[-1])):
        numbers.pop()
    return Round(folder, numbers[-1] + 1 if numbers else 0, shard)


def next_import(folder: Folder) -> Round:
    """The next round, or the last one where an import of people's masks was killed before its end."""
    following = next_round(folder)
    newest = Round(folder, following.number - 1)
    if following.number == 0 or newest.number in read_index(folder).rounds:
        return following
    return newest if "imported" in (newest.read_record() or {}) else following


def is_empty(target: Round) -> bool:
    """Whether no record and no part stands in the round."""
    return target.read_record() is None and not target.files()


def settled_rounds(folder: Folder) -> list[int]:
    """The rounds that stand on disk and that no refresh or rollback withholds, in order."""
    withheld = read_index(folder).withheld
    return [number for number in round_numbers(folder) if number not in withheld]


def engine_rounds(folder: Folder) -> list[int]:
    """Those of the settled rounds that are no imports into a dataset of runs; all of them where there are only
    imports."""
    settled = settled_rounds(folder)
    records = {number: Round(folder, number).read_record() for number in settled}
    made = [number for number, record in records.items() if record is not None and "imported" not in record]
    return made or settled
