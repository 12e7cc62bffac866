"""A round of a dataset: its record and its part files."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import pyarrow as pa

from pipeline.errors import FencedError, UnreadableError
from pipeline.store.commit_log import LogState
from pipeline.store.index import read_index
from pipeline.store.part_files import REPLACED, encode_part, read_part_file, reading_part
from pipeline.store.part_names import new_part_name
from pipeline.store.round_logs import SINGLE_WRITE, RoundLogs, nobody_is_refused
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder, to_json
from stages.mask_columns import refuse_unequal_lists
from stages.record import EMBEDDING_COLUMNS, MASK_COLUMNS, SCHEMA, conform, stored_schema

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
    id_column: ClassVar[str] = "image_id"
    repeating: ClassVar[list[str]] = ["status", "run_id"]  # columns whose values repeat
    aligned: ClassVar[tuple[str, ...]] = MASK_COLUMNS  # columns whose lists are equally long in each row

    def __init__(self, folder: Folder, number: int, shard: Shard | None = None) -> None:
        self.folder = folder
        self.number = number
        self.shard = shard
        self.name = f"round={number:03d}"
        self.logs = RoundLogs(folder, self.name, shard)
        self._files: dict[int, str] = {}

    def read_record(self) -> dict[str, Any] | None:
        """`_run.json` with the runs of every shard, or None before the round's first run."""
        try:
            record = self.folder.read_json(f"{self.name}/_run.json")
        except FileNotFoundError:
            return None
        if record.get("shards"):
            names = self.folder.names(self.name, "_run-", ".json")
            runs = [run for name in names for run in self.folder.read_json(name)]
            record["runs"] = sorted(runs, key=lambda run: run["started"])
        return dict(record)

    def write_record(self, record: dict[str, Any]) -> None:
        """Raises FencedError if another run has taken the round over."""
        self.logs.check()
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
            self.logs.check()
            name = self._runs_name(self.shard)
            runs = self.folder.read_json(name) if self.folder.exists(name) else []
            self.folder.write_json(name, [*runs, entry])

    def has_begun(self) -> bool:
        """Whether a run of this shard has left anything here."""
        assert self.shard is not None
        return bool(self.parts()) or self.folder.exists(self._runs_name(self.shard))

    def _runs_name(self, shard: Shard) -> str:
        return f"{self.name}/_run-{shard.number}-of-{shard.count}.json"

    def views(self) -> list["Round"]:
        """The round as each of its shards sees it, held as this is; itself where it has none."""
        if self.shard is not None or not (count := self.logs.num_shards() or self._recorded_shards()):
            return [self]
        views = []
        for number in range(1, count + 1):
            view = type(self)(self.folder, self.number, shard := Shard(number, count))
            view.logs = self.logs.of_shard(shard)
            views.append(view)
        return views

    def _recorded_shards(self) -> int | None:
        return (self.read_record() or {}).get("shards")

    def owns(self, part: int) -> bool:
        """Whether it is one of the parts seen from here."""
        return self.shard is None or self.shard.owns(part)

    def begin(
        self,
        run_id: str,
        owner: dict[str, Any] | None = None,
        refuse: Callable[[LogState], None] = nobody_is_refused,
    ) -> None:
        """Take the round over: from now on earlier runs can commit nothing. `refuse` raises where they may be alive;
        without an `owner` nobody is kept off."""
        self.logs.begin(run_id, owner, refuse, self._recorded_shards())

    def end(self) -> None:
        """Give the round back. Raises FencedError if another run has taken it."""
        self.logs.end()

    def read_log(self) -> list[LogState]:
        """What each log of the round says; held, as far as this run has come."""
        return self.logs.read()

    def files(self) -> dict[int, str]:
        """The file names of the parts that count, as they are now, by part number."""
        self._files = {part: name for state in self.read_log() for part, name in state.files.items()}
        return self._files

    def parts(self) -> list[int]:
        """The numbers of the parts that count, as they are now."""
        return sorted(self.files())

    def count_images(self, part: int) -> int:
        """From the file's own footer."""
        return reading_part(self.folder, self._file(part), lambda file: int(file.metadata.num_rows))

    def count_bytes(self, part: int) -> int:
        return int(self.folder.ask(lambda: self.folder.fs.size(self.part_path(part))))

    def remove_temporary(self) -> None:
        """What a killed writer left behind; of other shards, which may be alive, nothing."""
        self.folder.remove_temporary(self.name, self._is_temporary_of_mine)

    def part_path(self, part: int) -> str:
        return self.folder.path(self._file(part))

    def read_part(self, part: int, columns: list[str] | None = None) -> pa.Table:
        """Image rows of one part, as `parts` last found it, of the record's types whatever the part itself lacks; or
        some columns, those inside the masks by their Parquet names (`masks.list.element.keep`). Raises UnreadableError,
        naming the file, where it is damaged or gone."""
        return self.read_file(self._file(part).rpartition("/")[2], columns)

    def read_file(self, file: str, columns: list[str] | None = None) -> pa.Table:
        """`read_part` of a file that `files` named, which may have been replaced since."""
        # not as a dataset, which knows no columns inside `masks` and takes `round` from the folder's name as well
        table = read_part_file(self.folder, f"{self.name}/{file}", columns)
        if columns is not None:
            return table
        if self.id_column not in table.column_names:
            raise UnreadableError(f"{self.folder.path(self.name)}/{file} has no column {self.id_column}: no part of it")
        return conform(table, self.schema)

    def epoch(self, part: int) -> int:
        """The epoch in which this run holds the part's log."""
        return self.logs.writer(part).state.epoch

    def save(self, part: int, epoch: int, rows: pa.Table) -> str | None:
        """Write `rows` to a file for `part`, which counts only once it is committed; its name, None without rows. Rows
        of what was taken down, in this moment at the latest, are left out.

        Raises ValueError for rows of other columns than the record's, and UnequalListsError for rows that no reader
        could take apart into masks.
        """
        if not rows.schema.equals(self.schema):
            path = self.folder.path(f"{self.name}/part-{part:06d}.parquet")
            raise ValueError(f"{path}: a part holds the record's columns and no others")
        refuse_unequal_lists(rows, self.aligned, EMBEDDING_COLUMNS)
        rows = read_index(self.folder).dropped.leave_out(rows)
        if not rows.num_rows:
            return None
        data, end_hash = encode_part(rows.cast(stored_schema(self.schema)), self.repeating)
        file = new_part_name(part, epoch, end_hash)
        self.folder.write(f"{self.name}/{file}", data)
        return file

    def commit(self, files: dict[int, str | None], at_once: bool = False) -> None:
        """Let these files, of one log's parts, count in place of what the parts held; None takes a part away. What
        they held stays readable for those who are at it, except with `at_once`.

        Raises FencedError, and removes the files, if another run has taken the round over.
        """
        writer = self.logs.writer(next(iter(files)))
        add = [file for file in files.values() if file is not None]
        remove = [writer.state.files[part] for part in files if part in writer.state.files]
        try:
            if add or remove:
                writer.commit(add, remove, at_once)
        except FencedError:
            for file in add:
                self.folder.remove(f"{self.name}/{file}")
            raise
        for file in remove:
            if at_once:
                self.folder.remove(f"{self.name}/{file}")
            else:
                self.folder.move(f"{self.name}/{file}", f"{self.name}/{REPLACED}/{file}")

    def write_part(self, part: int, rows: pa.Table) -> pa.Table:
        """Commit `rows` as one part, in place of what it held; without rows the part goes. Those that were not taken
        down in the meantime, which are the ones that now stand in it."""
        with self._held():
            rows = read_index(self.folder).dropped.leave_out(rows)
            self.commit({part: self.save(part, self.epoch(part), rows)})
        return rows

    def replace_at_once(self, part: int, rows: pa.Table) -> None:
        """`write_part` of which nobody can read any more what the part held before."""
        with self._held():
            self.commit({part: self.save(part, self.epoch(part), rows)}, at_once=True)

    def remove_part(self, part: int) -> None:
        with self._held():
            self.commit({part: None})

    def remove_parts(self) -> None:
        """All of them."""
        for part in self.parts():
            self.remove_part(part)

    def committed(self) -> pa.Table:
        """(image_id, source_etag, prompts_hash, status, part) of every committed image."""
        names = [field.name for field in COMMITTED][:-1]

        def read(part: int) -> pa.Table:
            rows = self.read_part(part, names)
            columns = [rows[name] if name in rows.column_names else pa.nulls(rows.num_rows) for name in names]
            return pa.table([*columns, pa.array([part] * rows.num_rows, pa.int32())], names=COMMITTED.names)

        with ThreadPoolExecutor(self.folder.reads_at_once) as pool:
            tables = list(pool.map(read, self.parts()))
        return pa.concat_tables([COMMITTED.empty_table(), *(table.cast(COMMITTED) for table in tables)])

    def forget_lost_parts(self) -> list[str]:
        """Let files that are gone, which somebody removed as they were damaged, no longer count; their names."""
        present = {name.rpartition("/")[2] for name in self.folder.names(self.name, "part-", ".parquet")}
        files = self.files()
        lost = [part for part in sorted(files) if files[part] not in present]
        # asked for by name as well, as much depends on it
        lost = [part for part in lost if not self.folder.exists(f"{self.name}/{files[part]}")]
        for part in lost:
            self.commit({part: None})
        return [f"{self.name}/{files[part]}" for part in lost]

    @contextmanager
    def _held(self) -> Iterator[None]:
        """For one write by a caller who does not hold the round."""
        if self.logs.writers is not None:
            yield
            return
        self.begin(SINGLE_WRITE)
        try:
            yield
        finally:
            self.logs.writers = None

    def _file(self, part: int) -> str:
        if part not in self._files or self.logs.writers is not None:
            self.files()
        if part not in self._files:
            raise ValueError(f"{self.folder.path(self.name)} has no part {part}")
        return f"{self.name}/{self._files[part]}"

    def _is_temporary_of_mine(self, name: str) -> bool:
        found = re.match(r"\.part-(\d+)", name)
        return self.shard is None or (found is not None and self.shard.owns(int(found[1])))
