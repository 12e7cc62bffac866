"""A dataset's rounds: its index file, its run records and its part files."""

import io
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import Folder
from stages.record import SCHEMA

INDEX = "_dataset.json"
FORMAT_VERSION = 1


class Round:
    """One round of a dataset: `_run.json` and numbered part files of image rows."""

    def __init__(self, folder: Folder, number: int) -> None:
        self.folder = folder
        self.number = number
        self.name = f"round={number:03d}"

    def read_record(self) -> dict[str, Any] | None:
        """`_run.json`, or None before the round's first run."""
        name = f"{self.name}/_run.json"
        return self.folder.read_json(name) if self.folder.exists(name) else None

    def write_record(self, record: dict[str, Any]) -> None:
        self.folder.write_json(f"{self.name}/_run.json", record)

    def parts(self) -> list[int]:
        """The parts that count: those that a merge has replaced do not, even before they are removed."""
        present = self._present()
        merge = self._merge()
        return present if merge is None or merge["merged"] not in present else sorted({*present} - {*merge["sources"]})

    def next_part(self) -> int:
        return max(self._present(), default=-1) + 1

    def count_images(self, part: int) -> int:
        """From the file's own footer."""
        return int(pq.read_metadata(self.part_path(part), filesystem=self.folder.fs).num_rows)

    def begin_merge(self, merged: int, sources: list[int]) -> None:
        """Announce that part `merged`, once it appears, stands for `sources`."""
        self.folder.write_json(f"{self.name}/_merge.json", {"merged": merged, "sources": sources})

    def finish_merge(self) -> None:
        """Finish a merge whose part has appeared, forget one whose part has not."""
        merge = self._merge()
        if merge is None:
            return
        present = self._present()
        if merge["merged"] in present:
            for part in sorted({*merge["sources"]} & {*present}):
                self.folder.remove(self._part(part))
        self.folder.remove(f"{self.name}/_merge.json")

    def part_path(self, part: int) -> str:
        return self.folder.path(self._part(part))

    def read_part(self, part: int, columns: list[str] | None = None) -> pa.Table:
        """Image rows of one committed part, of the record's types whatever the part itself lacks."""
        # no partitioning: the column `round` would be taken from the folder's name as well
        table = pq.read_table(self.part_path(part), columns=columns, filesystem=self.folder.fs, partitioning=None)
        return table if columns is not None else table.cast(SCHEMA)

    def write_part(self, part: int, rows: pa.Table) -> None:
        """Commit `rows` as one part, in place of what it held."""
        assert rows.schema.equals(SCHEMA), "a part holds the record and nothing else"
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd", use_dictionary=["status", "run_id"])
        self.folder.write(self._part(part), buffer.getvalue())

    def committed(self) -> pa.Table:
        """(image_id, source_etag, status, part) of every committed image."""
        tables = []
        for part in self.parts():
            rows = self.read_part(part, ["image_id", "source_etag", "status"])
            tables.append(rows.append_column("part", pa.array([part] * rows.num_rows, pa.int32())))
        schema = pa.schema([*(SCHEMA.field(n) for n in ("image_id", "source_etag", "status")), ("part", pa.int32())])
        return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])

    def _present(self) -> list[int]:
        return [int(name[-14:-8]) for name in self.folder.names(self.name, "part-", ".parquet")]

    def _merge(self) -> dict[str, Any] | None:
        name = f"{self.name}/_merge.json"
        return self.folder.read_json(name) if self.folder.exists(name) else None

    def _part(self, part: int) -> str:
        return f"{self.name}/part-{part:06d}.parquet"


def round_numbers(folder: Folder) -> list[int]:
    """The rounds that stand on disk, in order."""
    if not folder.fs.exists(folder.root):
        return []
    names = (path.rstrip("/").rsplit("/", 1)[-1] for path in folder.fs.ls(folder.root, detail=False, refresh=True))
    return sorted(int(name[6:]) for name in names if re.fullmatch(r"round=\d{3,}", name))


def publish(folder: Folder, number: int) -> None:
    """Let readers see a round."""
    index = read_index(folder)
    if number not in index["published"]:
        index["published"] = sorted([*index["published"], number])
        index["rounds"] = sorted({*index["rounds"], number})
        folder.write_json(INDEX, index)


def read_index(folder: Folder) -> dict[str, Any]:
    """`_dataset.json`; an empty index where there is none yet. Raises ValueError for another format."""
    if not folder.exists(INDEX):
        return {"format": FORMAT_VERSION, "rounds": [], "published": []}
    index = folder.read_json(INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT_VERSION:
        raise ValueError(f"{folder.path(INDEX)}: not a dataset of format {FORMAT_VERSION}; choose another output")
    return index
