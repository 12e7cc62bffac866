"""What an export's folder says about itself: with which settings it is made, which parts are done, and their files."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.dataset import Dataset, Part
from pipeline.export.assignments import Assignments
from pipeline.export.job import STATE
from pipeline.store.storage import Folder

MAX_NAMED = 20
FILES_VERSION = 2  # of how files are named: an export of another version is written anew
_SETTINGS = f"{STATE}/settings.json"
_DONE = f"{STATE}/done"


@dataclass
class Counts:
    """`missing` pictures could not be read, the first of them named; `lost_masks` have no place in the layout: of no
    pixel at the written size, or hidden behind others. `turned` pictures are only referenced, and their files hold
    them turned (EXIF): a reader that does not turn them lays the masks elsewhere."""

    images: int = 0
    masks: int = 0
    missing: int = 0
    lost_masks: int = 0
    turned: int = 0
    missing_names: list[str] = field(default_factory=list)

    def add(self, other: "Counts") -> None:
        self.images += other.images
        self.masks += other.masks
        self.missing += other.missing
        self.lost_masks += other.lost_masks
        self.turned += other.turned
        self.missing_names = (self.missing_names + other.missing_names)[:MAX_NAMED]


class State:
    """Parts that are done are not written again, as long as neither they, nor newer rounds, nor `settings` change."""

    def __init__(
        self,
        dataset: Dataset,
        parts: list[Part],
        folder: Folder,
        categories: dict[str, int],
        assignments: Assignments | None,
    ) -> None:
        self.folder = folder
        self.tokens = _tokens(dataset, parts, categories, assignments)

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raises ValueError where the folder holds an export of other settings."""
        if self.folder.exists(_SETTINGS):
            before = self.folder.read_json(_SETTINGS)
            changed = sorted(name for name in settings if before.get(name) != settings[name])
            if changed:
                was = ", ".join(f"{name} {before.get(name)!r}" for name in changed)
                raise ValueError(
                    f"output: {self.folder.uri!r} holds another export ({was}); use the same or another folder"
                )
        else:
            self.folder.write_json(_SETTINGS, settings)

    def remove_outdated(self) -> None:
        """The files of parts that changed or are gone, before any are written."""
        for name in self.folder.names(_DONE, "round-", ".json"):
            mark = self.folder.read_json(name)
            if mark["token"] != self.tokens.get(name.rpartition("/")[2].removesuffix(".json")):
                for file in mark["files"]:
                    self.folder.remove(file)
                self.folder.remove(name)

    def done(self, part: Part) -> Counts | None:
        """What the part gave, if it stands here without a picture missing."""
        name = f"{_DONE}/{part_name(part)}.json"
        if not self.folder.exists(name):
            return None
        mark = self.folder.read_json(name)
        return None if mark["counts"]["missing"] else Counts(**mark["counts"])

    def finish(self, part: Part, counts: Counts, files: list[str]) -> None:
        """Marks the part as done."""
        mark = {"token": self.tokens[part_name(part)], "counts": asdict(counts), "files": files}
        self.folder.write(f"{_DONE}/{part_name(part)}.json", json.dumps(mark).encode())


def part_name(part: Part) -> str:
    return f"round-{part.round:03d}-part-{part.number:06d}"


def _tokens(
    dataset: Dataset, parts: list[Part], categories: dict[str, int], assignments: Assignments | None
) -> dict[str, str]:
    """For each part what its files depend on: its own file, the files of newer rounds, the numbers of the categories,
    the splits of its images."""
    by_round: dict[int, dict[str, str]] = {}
    splits: dict[str, str] = {}
    for part in parts:
        by_round.setdefault(part.round, {})[part_name(part)] = part.file  # which nobody ever changes
        splits[part_name(part)] = "" if assignments is None else assignments.token(part)
    newer = hashlib.sha256(json.dumps([FILES_VERSION, categories]).encode())
    tokens = {}
    for number in sorted(by_round, reverse=True):
        above = newer.hexdigest()
        for name, tag in sorted(by_round[number].items()):
            tokens[name] = hashlib.sha256(f"{tag} {above} {splits[name]}".encode()).hexdigest()[:16]
            newer.update(f"{name} {tag}".encode())
    return tokens
