"""What a listing met and did not take, counted by reason, so that nothing is left out in silence."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stages.address import COMPRESSED_SUFFIXES, suffix_of

MAX_SUFFIXES = 50  # that are counted each by itself
MAX_LETTERS = 16  # of a suffix; what is longer, or would control a terminal, is part of some name
LITTER = "files of the system (._*, __MACOSX, @eaDir …)"
NO_SUFFIX, OTHER_SUFFIXES = "no suffix", "other suffixes"
COMPRESSED = "compressed archives"

_LITTER_FOLDERS = {"__MACOSX", "@eaDir", ".AppleDouble"}
_LITTER_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}


@dataclass
class ListingNotes:
    """`not_taken`: files that a listing met and left out, by suffix or reason. `gathered_rows`: rows of manifests that
    were joined to an earlier one of the same image; `differing_columns`: those in which they disagreed. `known_ids`:
    images that go by the id under which the dataset holds them already."""

    not_taken: Counter[str] = field(default_factory=Counter)
    gathered_rows: int = 0
    differing_columns: set[str] = field(default_factory=set)
    known_ids: int = 0

    def leave_out(self, name: str) -> None:
        """Count a file whose kind is not taken."""
        suffix = suffix_of(name) or NO_SUFFIX
        is_odd = len(suffix) > MAX_LETTERS or not suffix.isprintable()
        is_full = suffix not in self.not_taken and len(self.not_taken) >= MAX_SUFFIXES
        if name.lower().endswith(COMPRESSED_SUFFIXES):
            suffix = COMPRESSED
        elif is_odd or is_full:
            suffix = OTHER_SUFFIXES
        self.not_taken[suffix] += 1

    def leave_out_many(self, reason: str, count: int) -> None:
        """Count files that are left out for another reason."""
        if count:
            self.not_taken[reason] += count

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {
            "not_taken": dict(self.not_taken.most_common()),
            "differing_columns": sorted(self.differing_columns),
        }


def is_litter(path: str) -> bool:
    """Whether a path below a source is what a Mac, Windows or a Synology leaves beside pictures."""
    *folders, base = path.split("/")
    return base.startswith("._") or base in _LITTER_FILES or not _LITTER_FOLDERS.isdisjoint(folders)


def lines(noted: dict[str, Any]) -> list[str]:
    """Lines for people, of what `ListingNotes.as_dict` says."""
    found = []
    if noted["not_taken"]:
        counts = ", ".join(f"{count:,} × {reason}" for reason, count in noted["not_taken"].items())
        found.append(f"seen in the input and not taken: {counts}")
    if noted["gathered_rows"]:
        columns = ", ".join(noted["differing_columns"])
        note = f"; {columns} differ among them and are kept as lists" if columns else ""
        found.append(f"{noted['gathered_rows']:,} rows of the manifest joined to an image's first one{note}")
    if noted["known_ids"]:
        found.append(f"{noted['known_ids']:,} images go by the ids under which the dataset holds them")
    return found
