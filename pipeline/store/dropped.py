"""What was taken down for good, and which rows that concerns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# What an image is known by: under another name, at another address or as a copy it stays the same image.
MARKS = ("ids", "uris", "contents")
COLUMNS = {"image_id": "ids", "video_id": "ids", "uri": "uris", "content_sha256": "contents"}


def same_address(uri: str) -> set[str]:
    """A file of this machine as a path and as a URI: imports write the one, listings the other."""
    path = uri.removeprefix("file://")
    return {path, f"file://{path}"} if path.startswith("/") else {uri}


@dataclass(frozen=True)
class Dropped:
    """Ids, addresses and sha256 sums of the content of images and videos that were taken down."""

    ids: frozenset[str] = frozenset()
    uris: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.ids or self.uris or self.contents)

    def __or__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.ids | other.ids, self.uris | other.uris, self.contents | other.contents)

    def concerns(self, rows: pa.Table) -> pa.Array:
        """Which rows of a listing or of a part are of such an image, bool."""
        found = pa.array([False] * rows.num_rows, pa.bool_())
        for column, mark in COLUMNS.items():
            values = sorted(getattr(self, mark))
            if values and column in rows.column_names:
                is_in = pc.is_in(rows[column], value_set=pa.array(values, pa.string()))
                found = pc.or_(found, is_in.combine_chunks())
        return found

    def leave_out(self, rows: pa.Table) -> pa.Table:
        """The other rows."""
        return rows.filter(pc.invert(self.concerns(rows))) if self else rows

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether a row of plain values is of such an image."""
        return any(row.get(column) in getattr(self, mark) for column, mark in COLUMNS.items())

    @classmethod
    def of_rows(cls, rows: Iterable[dict[str, Any]]) -> "Dropped":
        """Everything that these rows' images are known by."""
        found: dict[str, set[str]] = {mark: set() for mark in MARKS}
        for row in rows:
            for column, mark in COLUMNS.items():
                if row.get(column):
                    found[mark] |= same_address(row[column]) if mark == "uris" else {row[column]}
        return cls(**{mark: frozenset(values) for mark, values in found.items()})
