"""What the layouts are given: an export's settings, and one image on its way out."""

from dataclasses import dataclass
from typing import Any

from pipeline.store.storage import Folder

# The folder inside an export that tells what is done; no tool of any layout looks there.
STATE = "_export"


@dataclass(frozen=True)
class Item:
    """One image: `row` is the record's, in the size that is written; without `picture` the image is only referenced.

    `name` is its file name without the `ending`; no other image of the export has that `name` or `number`.
    """

    number: int
    row: dict[str, Any]
    name: str
    picture: bytes | None
    ending: str

    @property
    def file_name(self) -> str:
        """The picture's file, or where it is referenced its URI."""
        return self.row["uri"] if self.picture is None else f"{self.name}{self.ending}"


@dataclass(frozen=True)
class Written:
    """The `files` of a slice; `lost_masks` have no place in the layout, as they have no pixel or none that is seen."""

    files: list[str]
    lost_masks: int = 0


@dataclass(frozen=True)
class Job:
    """Where an export goes. `categories` numbers the tags from 1, which is `segment`: a mask without a tag.

    `places` are the folders of the splits (`train/` …), or one empty name without a split.
    """

    folder: Folder
    source: str
    places: tuple[str, ...]
    categories: dict[str, int]

    def save_picture(self, item: Item, place: str) -> list[str]:
        """Writes the picture below `place`, if the export takes pictures; the files that were written."""
        if item.picture is None:
            return []
        self.folder.write(f"{place}{item.file_name}", item.picture)
        return [f"{place}{item.file_name}"]

    def category(self, mask: dict[str, Any]) -> int:
        """The number of a mask's best tag, of `segment` without one."""
        tags = mask["tags"]
        return self.categories[best_tag(tags)] if tags else 1


def best_tag(tags: list[dict[str, Any]]) -> str:
    """As the column `tag` of a query has it: the best score (an unknown one is), then the last name."""
    return str(max(tags, key=lambda tag: (tag["score"] is None, tag["score"] or 0.0, tag["name"]))["name"])
