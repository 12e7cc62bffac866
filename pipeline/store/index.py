"""A dataset's index: its rounds, which of them readers see, and what was taken down.

Each change makes a version of its own, `_index/00000012.json`, which only one writer can make; whoever comes second
reads that one and changes it again. `_dataset.json` is a copy of the newest, for people and for other tools.
"""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.store.dropped import Dropped
from pipeline.store.storage import Folder, to_json

INDEX = "_dataset.json"
VERSIONS = "_index"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Index:
    """Numbers of rounds, in order. Of those `withheld` from readers some were published before and are `taken_back`."""

    rounds: tuple[int, ...] = ()
    published: tuple[int, ...] = ()
    withheld: tuple[int, ...] = ()
    taken_back: tuple[int, ...] = ()
    dropped: Dropped = field(default_factory=Dropped)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "rounds": list(self.rounds),
            "published": list(self.published),
        }
        optional = {
            "withheld": list(self.withheld),
            "taken_back": list(self.taken_back),
            "dropped": sorted(self.dropped.ids),
            "dropped_uris": sorted(self.dropped.uris),
            "dropped_contents": sorted(self.dropped.contents),
        }
        return content | {name: values for name, values in optional.items() if values}

    @classmethod
    def from_json(cls, content: Any, path: str) -> "Index":
        """Raises ValueError for what is no index of this format."""
        if not isinstance(content, dict) or content.get("format") != FORMAT_VERSION:
            raise ValueError(f"{path}: not a dataset of format {FORMAT_VERSION}; choose another output")
        numbers = {name: tuple(content.get(name, ())) for name in ("rounds", "published", "withheld", "taken_back")}
        dropped = (content.get(name, ()) for name in ("dropped", "dropped_uris", "dropped_contents"))
        return cls(**numbers, dropped=Dropped(*map(frozenset, dropped)))


def read_index(folder: Folder) -> Index:
    """The newest version; an empty index where there is none yet. Raises ValueError for another format."""
    return _read_newest(folder)[1]


def change_index(folder: Folder, change: Callable[[Index], Index]) -> Index:
    """Make `change` the next version, on top of whatever others have changed meanwhile."""
    while True:
        number, index = _read_newest(folder)
        changed = change(index)
        if changed == index:
            break
        content = changed.to_json() | {"token": secrets.token_hex(8)}
        name = f"{VERSIONS}/{number + 1:08d}.json"
        # the store's answer may be lost after the file was made
        if folder.create(name, to_json(content)) or folder.read_json(name) == content:
            break
    if folder.read_optional(INDEX) != to_json(changed.to_json()) and changed != Index():
        folder.write_json(INDEX, changed.to_json())
    return changed


def has_stale_copy(folder: Folder) -> bool:
    """Whether `_dataset.json` says something else than the index: a writer was killed just then."""
    number, index = _read_newest(folder)
    data = folder.read_optional(INDEX)
    try:
        return number >= 0 and (data is None or json.loads(data) != index.to_json())
    except ValueError:
        return True


def _read_newest(folder: Folder) -> tuple[int, Index]:
    """Its number, -1 for a dataset without versions, as those before this one made them."""
    names = folder.names(VERSIONS, "", ".json")
    numbers = [int(found[1]) for name in names if (found := re.search(r"/(\d{8,})\.json$", name))]
    if numbers:
        name = f"{VERSIONS}/{max(numbers):08d}.json"
        return max(numbers), Index.from_json(folder.read_json(name), folder.path(name))
    if folder.read_optional(INDEX) is None:
        return -1, Index()
    return -1, Index.from_json(folder.read_json(INDEX), folder.path(INDEX))


def publish(folder: Folder, number: int) -> None:
    """Let readers see a round."""

    def change(index: Index) -> Index:
        return replace(
            index,
            rounds=_with(index.rounds, number),
            published=_with(index.published, number),
            withheld=_without(index.withheld, number),
            taken_back=_without(index.taken_back, number),
        )

    change_index(folder, change)


def withhold(folder: Folder, number: int, taken_back: bool = False) -> None:
    """Keep a round from readers: one that is not ready, or is taken back. Its files stay, and runs leave it alone."""

    def change(index: Index) -> Index:
        return replace(
            index,
            rounds=_with(index.rounds, number),
            published=_without(index.published, number),
            withheld=_with(index.withheld, number),
            taken_back=_with(index.taken_back, number) if taken_back else index.taken_back,
        )

    change_index(folder, change)


def _with(numbers: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(sorted({*numbers, number}))


def _without(numbers: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(one for one in numbers if one != number)
