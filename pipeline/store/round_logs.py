"""A round's logs of commits: one, or where the round is written in shards one a shard."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pipeline.store.commit_log import CommitLog, LogState, LogWriter, open_epoch
from pipeline.store.part_names import parse_part_name, part_number
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder

SINGLE_WRITE = "a single write"


def nobody_is_refused(state: LogState) -> None:
    """For a writer that keeps to itself: earlier ones are fenced, whether they live or not."""


class RoundLogs:
    """The logs of the round in folder `name`, or the one of its `shard`; between `begin` and `end` this run's own."""

    def __init__(self, folder: Folder, name: str, shard: Shard | None) -> None:
        self.folder = folder
        self.name = f"{name}/_log"
        self.round_name = name
        self.shard = shard
        self.writers: dict[str, LogWriter] | None = None

    def of_shard(self, shard: Shard) -> "RoundLogs":
        """The log of one shard, held as long as this is."""
        logs = RoundLogs(self.folder, self.round_name, shard)
        logs.writers = self.writers
        return logs

    def begin(
        self, run_id: str, owner: dict[str, Any] | None, refuse: Callable[[LogState], None], num_shards: int | None
    ) -> None:
        """Take every log over: from now on earlier runs can commit nothing. `refuse` raises where they may be alive;
        without an `owner` nobody is kept off. `num_shards` counts for a round that has no logs yet."""
        writers: dict[str, LogWriter] = {}
        try:
            for log in self._logs(self._count_shards() or num_shards):
                writers[log.name] = open_epoch(log, run_id, owner, refuse, partial(self._adopted, log))
        except BaseException:
            for writer in writers.values():
                writer.close()
            raise
        self.writers = writers

    def end(self) -> None:
        """Give them back. Raises FencedError if another run has taken one."""
        writers, self.writers = self.writers or {}, None
        for writer in writers.values():
            writer.close()

    def check(self) -> None:
        """Raises FencedError if this run held the round and another has taken it."""
        for writer in (self.writers or {}).values():
            writer.commit()

    def read(self) -> list[LogState]:
        """What each of them says; held, as far as this run has come."""
        if self.writers is not None:
            return [self.writers[log.name].state for log in self._logs(self.num_shards())]
        names = self.folder.names(self.name, "", "") if self.shard is None else None
        count = _count_shards(names or [])
        states = []
        for log in self._logs(count):
            state = log.read(names if count is None else None)
            if state.head < 0:
                state.files = {part_number(name): name for name in self._adopted(log)["add"]}
            states.append(state)
        return states

    def writer(self, part: int) -> LogWriter:
        """Of the log in which the part's commits stand."""
        if self.writers is None:
            raise RuntimeError(f"{self.name}: who commits holds the round")
        count = self.num_shards()
        shard = self.shard or (Shard(part % count + 1, count) if count else None)
        return self.writers[self._log_name(shard)]

    def num_shards(self) -> int | None:
        """None for a round that is not written in shards, or has no logs."""
        if self.shard is not None:
            return self.shard.count
        if self.writers:
            return None if self.name in self.writers else len(self.writers)
        return self._count_shards()

    def _count_shards(self) -> int | None:
        return None if self.shard is not None else _count_shards(self.folder.names(self.name, "", ""))

    def _logs(self, num_shards: int | None) -> list[CommitLog]:
        shards: list[Shard | None] = [self.shard]
        if self.shard is None and num_shards:
            shards = [Shard(number, num_shards) for number in range(1, num_shards + 1)]
        return [CommitLog(self.folder, self._log_name(shard)) for shard in shards]

    def _log_name(self, shard: Shard | None) -> str:
        return self.name if shard is None else f"{self.name}/{shard.number}-of-{shard.count}"

    def _adopted(self, log: CommitLog) -> dict[str, list[str]]:
        """The files of a round, or a shard of it, that has no log: what its first entry says of them."""
        found = re.search(r"/(\d+)-of-(\d+)$", log.name)
        shard = Shard(int(found[1]), int(found[2])) if found else None
        files = files_without_log(self.folder, self.round_name)
        return {
            key: [name for name in names if shard is None or shard.owns(part_number(name))]
            for key, names in files.items()
        }


def files_without_log(folder: Folder, round_name: str) -> dict[str, list[str]]:
    """The part files of a round of the version before, which kept no log of commits and, while it merged parts, a note
    of which one stands for which: those that count (`add`), and those that are `replaced`."""
    names = [name.rpartition("/")[2] for name in folder.names(round_name, "part-", ".parquet")]
    plain = [name for name in names if (parsed := parse_part_name(name)) and parsed.epoch is None]
    note = folder.read_optional(f"{round_name}/_merge.json")
    merge = json.loads(note) if note else {"merged": None, "sources": []}
    replaced = set(merge["sources"]) if merge["merged"] in {part_number(name) for name in plain} else set()
    return {
        "add": [name for name in plain if part_number(name) not in replaced],
        "replaced": [name for name in plain if part_number(name) in replaced],
    }


def _count_shards(names: Sequence[str]) -> int | None:
    counts = [int(found[1]) for name in names if (found := re.search(r"/\d+-of-(\d+)$", name))]
    return max(counts, default=None)
