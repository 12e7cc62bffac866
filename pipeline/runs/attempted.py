"""How runs ended, as their entries in a round's record tell: what the same command does when it is given again."""

from collections.abc import Sequence
from typing import Any

# So many runs in a row in which every image fails, and the images count as failed for good: a loop that repeats a
# command for as long as that may help must end.
MAX_FRUITLESS_RUNS = 3


def has_ended(runs: Sequence[dict[str, Any]]) -> bool:
    """Whether one of the runs came to its end with something to show, or found nothing left to do."""
    return any(entry.get("status") == "done" and not _is_fruitless(entry) for entry in runs)


def fruitless_in_a_row(runs: Sequence[dict[str, Any]]) -> int:
    """How many of the last runs tried images and had all of them fail; runs that tried none do not count."""
    count = 0
    for entry in reversed(runs):
        if _is_fruitless(entry):
            count += 1
        elif _tried(entry):
            break
    return count


def of_shard(runs: Sequence[dict[str, Any]], shard: object) -> list[dict[str, Any]]:
    """The runs of one shard, or without one all of them."""
    return [entry for entry in runs if shard is None or entry.get("shard") == str(shard)]


def _tried(entry: dict[str, Any]) -> int:
    return int(entry.get("images") or entry.get("videos") or 0)


def _is_fruitless(entry: dict[str, Any]) -> bool:
    return 0 < _tried(entry) == entry.get("failed")
