"""A dataset's rounds: its index file, its run records and its part files."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.shards import Shard, part_after
from pipeline.store.storage import Folder, to_json
from stages.mask_columns import refuse_unequal_lists
from stages.record import EMBEDDING_COLUMNS, MASK_COLUMNS, SCHEMA, conform, stored_schema

INDEX = "_dataset.json"
FORMAT_VERSION = 1
READS_AT_ONCE = 16
COMMITTED = pa.schema(
    [
        *(SCHEMA.field(name) for name in ("image_id", "source_etag", "prompts_hash", "status")),
        ("part", pa.int32()),
    ]
)


class Round:
    """One round of a dataset: `_run.json` and numbered part files of image rows.

    Seen from one `shard`, the parts are that shard's own; `_run.json` belongs to all, and what each shard's runs did
    stands in a file of its own.
    """

    schema = SCHEMA  # of the parts
    repeating: ClassVar[list[str]] = ["status", "run_id"]  # columns whose values repeat
    aligned: ClassVar[tuple[str, ...]] = MASK_COLUMNS  # columns whose lists are equally long in each row

    def __init__(self, folder: Folder, number: int, shard: Shard | None = None) -> None:
        self.folder = folder
        self.number = number
        self.shard = shard
        self.name = f"round={number:03d}"

    def read_record(self) -> dict[str, Any] | None:
        """`_run.json` with the runs of every shard, or None before the round's first run."""
        name = f"{self.name}/_run.json"
        if not self.folder.exists(name):
            return None
        record = self.folder.read_json(name)
        if record.get("shards"):
            names = self.folder.names(self.name, "_run-", ".json")
            runs = [run for name in names for run in self.folder.read_json(name)]
            record["runs"] = sorted(runs, key=lambda run: run["started"])
        return dict(record)

    def write_record(self, record: dict[str, Any]) -> None:
        self.folder.write_json(f"{self.name}/_run.json", record | {"runs": []} if record.get("shards") else record)

    def create_record(self, record: dict[str, Any]) -> bool:
        """False if another run was first."""
        return self.folder.create(f"{self.name}/_run.json", to_json(record))

    def add_run(self, entry: dict[str, Any]) -> None:
        """Append one run to the record."""
        if self.shard is None:
            record = self.read_record()
            assert record is not None, "the record was written when the run began"
            self.write_record(record | {"runs": [*record["runs"], entry]})
        else:
            name = self._runs_name(self.shard)
            runs = self.folder.read_json(name) if self.folder.exists(name) else []
            self.folder.write_json(name, [*runs, entry])

    def has_begun(self) -> bool:
        """Whether a run of this shard has left anything here."""
        assert self.shard is not None
        return bool(self._present()) or self.folder.exists(self._runs_name(self.shard))

    def _runs_name(self, shard: Shard) -> str:
        return f"{self.name}/_run-{shard.number}-of-{shard.count}.json"

    def views(self) -> list["Round"]:
        """The round as each of its shards sees it; itself where it has none."""
        record = self.read_record()
        count = record.get("shards") if record else None
        if not count:
            return [self]
        return [Round(self.folder, self.number, Shard(number, count)) for number in range(1, count + 1)]

    def parts(self) -> list[int]:
        """The parts that count: those that a merge has replaced do not, even before they are removed."""
        present = self._present()
        merge = self._merge()
        return present if merge is None or merge["merged"] not in present else sorted({*present} - {*merge["sources"]})

    def next_part(self) -> int:
        return part_after(max(self._present(), default=-1), self.shard)

    def count_images(self, part: int) -> int:
        """From the file's own footer."""
        path, files = self.part_path(part), self.folder.fs
        return int(self.folder.ask(lambda: pq.read_metadata(path, filesystem=files)).num_rows)

    def count_bytes(self, part: int) -> int:
        return int(self.folder.ask(lambda: self.folder.fs.size(self.part_path(part))))

    def begin_merge(self, merged: int, sources: list[int]) -> None:
        """Announce that part `merged`, once it appears, stands for `sources`."""
        self.folder.write_json(f"{self.name}/_merge.json", {"merged": merged, "sources": sources})

    def finish_merge(self) -> None:
        """Finish a merge whose part has appeared, forget one whose part has not."""
        assert self.shard is None, "another shard may be reading what the merge replaced"
        merge = self._merge()
        if merge is None:
            return
        present = self._present()
        if merge["merged"] in present:
            for part in sorted({*merge["sources"]} & {*present}):
                self.remove_part(part)
        self.folder.remove(f"{self.name}/_merge.json")

    def remove_temporary(self) -> None:
        """What a killed writer left behind; of other shards, which may be alive, nothing."""
        self.folder.remove_temporary(self.name, lambda name: self._is_mine(name.removeprefix(".")))

    def part_path(self, part: int) -> str:
        return self.folder.path(self._part(part))

    def read_part(self, part: int, columns: list[str] | None = None) -> pa.Table:
        """Image rows of one committed part, of the record's types whatever the part itself lacks; or some columns,
        those inside the masks by their Parquet names (`masks.list.element.keep`)."""
        path, files = self.part_path(part), self.folder.fs

        def read() -> pa.Table:
            # not as a dataset, which knows no columns inside `masks` and takes `round` from the folder's name as well
            with pq.ParquetFile(path, filesystem=files) as file:
                return file.read(columns)

        table = self.folder.ask(read)
        return table if columns is not None else conform(table, self.schema)

    def write_part(self, part: int, rows: pa.Table) -> None:
        """Commit `rows` as one part, in place of what it held. Raises ValueError for rows of other columns than the
        record's, and UnequalListsError for rows that no reader could take apart into masks."""
        if not rows.schema.equals(self.schema):
            raise ValueError(f"{self.part_path(part)}: a part holds the record's columns and no others")
        refuse_unequal_lists(rows, self.aligned, EMBEDDING_COLUMNS)
        buffer = io.BytesIO()
        stored = rows.cast(stored_schema(self.schema))
        pq.write_table(stored, buffer, compression="zstd", use_dictionary=self.repeating)
        self.folder.write(self._part(part), buffer.getvalue())

    def remove_part(self, part: int) -> None:
        self.folder.remove(self._part(part))

    def committed(self) -> pa.Table:
        """(image_id, source_etag, prompts_hash, status, part) of every committed image."""
        names = [field.name for field in COMMITTED][:-1]

        def read(part: int) -> pa.Table:
            rows = self.read_part(part, names)
            columns = [rows[name] if name in rows.column_names else pa.nulls(rows.num_rows) for name in names]
            return pa.table([*columns, pa.array([part] * rows.num_rows, pa.int32())], names=COMMITTED.names)

        # a store's answers take their time; on disk more than one reader only waits for the interpreter
        with ThreadPoolExecutor(1 if self.folder.is_local else READS_AT_ONCE) as pool:
            tables = list(pool.map(read, self.parts()))
        return pa.concat_tables([COMMITTED.empty_table(), *(table.cast(COMMITTED) for table in tables)])

    def _present(self) -> list[int]:
        names = self.folder.names(self.name, "part-", ".parquet")
        return sorted(_part_number(name) for name in names if self._is_mine(name.rpartition("/")[2]))

    def _is_mine(self, name: str) -> bool:
        return self.shard is None or (name.startswith("part-") and self.shard.owns(_part_number(name)))

    def _merge(self) -> dict[str, Any] | None:
        name = f"{self.name}/_merge.json"
        return self.folder.read_json(name) if self.folder.exists(name) else None

    def _part(self, part: int) -> str:
        return f"{self.name}/part-{part:06d}.parquet"


def _part_number(name: str) -> int:
    return int(name.rpartition("part-")[2].split(".", 1)[0])


def round_numbers(folder: Folder) -> list[int]:
    """The rounds that stand on disk, in order."""
    names = folder.names("", "round=", "")
    return sorted(int(name[6:]) for name in names if re.fullmatch(r"round=\d{3,}", name))


def settled_rounds(folder: Folder) -> list[int]:
    """The rounds that stand on disk and that no refresh or rollback withholds, in order."""
    withheld = read_index(folder).get("withheld", [])
    return [number for number in round_numbers(folder) if number not in withheld]


def engine_rounds(folder: Folder) -> list[int]:
    """Those of the settled rounds that are no imports into a dataset of runs; all of them where there are only
    imports."""
    settled = settled_rounds(folder)
    made = [number for number in settled if "imported" not in (Round(folder, number).read_record() or {})]
    return made or settled


def publish(folder: Folder, number: int) -> None:
    """Let readers see a round."""
    _list_round(folder, number, published=True)


def withhold(folder: Folder, number: int) -> None:
    """Keep a round from readers: one that is not ready, or is taken back. Its files stay, and runs leave it alone."""
    _list_round(folder, number, published=False)


def _list_round(folder: Folder, number: int, published: bool) -> None:
    index = read_index(folder)
    before, withheld = set(index["published"]), set(index.get("withheld", []))
    changed = dict(index)
    changed["rounds"] = sorted({*index["rounds"], number})
    changed["published"] = sorted(before | {number} if published else before - {number})
    changed["withheld"] = sorted(withheld - {number} if published else withheld | {number})
    if not changed["withheld"]:
        del changed["withheld"]
    if changed != index:
        folder.write_json(INDEX, changed)


def read_index(folder: Folder) -> dict[str, Any]:
    """`_dataset.json`; an empty index where there is none yet. Raises ValueError for another format."""
    if not folder.exists(INDEX):
        return {"format": FORMAT_VERSION, "rounds": [], "published": []}
    index = folder.read_json(INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT_VERSION:
        raise ValueError(f"{folder.path(INDEX)}: not a dataset of format {FORMAT_VERSION}; choose another output")
    return index
