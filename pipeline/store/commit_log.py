"""The log of a round's commits, which decides what stands in it and who may write it.

Its entries are numbered files of which each is made once, by one writer (`Folder.create`), and never changed. A run
begins with an entry that opens an epoch. Each of its commits tries the number after the last entry that it knows: if
another run has taken that number to open an epoch of its own, the round is that run's, and this one is fenced.
"""

import json
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import FencedError, UnreadableError
from pipeline.store.part_names import parse_part_name, part_number
from pipeline.store.storage import Folder, to_json

CHECKPOINT_EVERY = 100  # entries, so that a reader reads few of them
GRACE_SECONDS = 24 * 3600.0  # for which a replaced file stays for those who are reading it

_ENTRY = re.compile(r"(\d{8,})\.json")
_CHECKPOINT = re.compile(r"(\d{8,})\.checkpoint\.json")


@dataclass
class LogState:
    """What the entries up to number `head` say: the part files that count, by part number; the files that others have
    replaced, with the time (0 for one that must go at once); the epoch, the token of the entry that opened it, and
    who holds the round (None after its end)."""

    head: int = -1
    epoch: int = -1
    opening: str = ""
    run_id: str = ""
    owner: dict[str, Any] | None = None
    files: dict[int, str] = field(default_factory=dict)
    replaced: dict[str, float] = field(default_factory=dict)

    def apply(self, number: int, entry: dict[str, Any]) -> None:
        """Take in the next entry. One of an epoch that is over changes nothing: its writer was too late."""
        self.head = number
        if "open" in entry:
            self.epoch, self.opening = number, entry["token"]
            self.run_id, self.owner = entry["run_id"], entry["open"]
            self._forget_replaced(entry["time"] - GRACE_SECONDS)
        elif entry.get("opening") != self.opening:
            return
        elif entry.get("close"):
            self.owner = None
        for name in entry.get("remove", ()):
            del self.files[part_number(name)]
            self.replaced[name] = 0.0 if entry.get("at_once") else entry["time"]
        for name in entry.get("replaced", ()):
            self.replaced[name] = entry["time"]
        for name in entry.get("add", ()):
            self.files[part_number(name)] = name

    def _forget_replaced(self, before: float) -> None:
        """A file whose name shows its epoch is known for a left-over without being listed here."""
        for name, when in list(self.replaced.items()):
            parsed = parse_part_name(name)
            if when < before and parsed is not None and parsed.epoch is not None:
                del self.replaced[name]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "LogState":
        return cls(**{**content, "files": {int(part): name for part, name in content["files"].items()}})


class CommitLog:
    """The log in one folder; of a round that is written in shards, one of several."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name

    def read(self, listed: Sequence[str] | None = None) -> LogState:
        """The state after the newest entry; `listed` are the folder's names where the caller has them already."""
        while True:
            names = self.folder.names(self.name, "", ".json") if listed is None else listed
            listed = None
            files = [name.rpartition("/")[2] for name in names]
            numbers = {int(found[1]) for file in files if (found := _ENTRY.fullmatch(file))}
            checkpoints = [int(found[1]) for file in files if (found := _CHECKPOINT.fullmatch(file))]
            try:
                state = self._read_checkpoint(max(checkpoints)) if checkpoints else LogState()
                following: list[int] = []
                while state.head + 1 + len(following) in numbers:
                    following.append(state.head + 1 + len(following))
                for number, entry in zip(following, self._read_entries(following), strict=True):
                    state.apply(number, entry)
            except FileNotFoundError:  # a newer checkpoint has come in its place, or the round is being taken back
                continue
            return state

    def create(self, state: LogState, entry: dict[str, Any]) -> bool:
        """Append to `state`, which then has the entry; False if another writer took the number."""
        number = state.head + 1
        entry = {"token": secrets.token_hex(8), "time": self.folder.now(), **entry}
        if not self.folder.create(self._entry_name(number), json.dumps(entry).encode()):
            there = self.read_entry(number)
            if there.get("token") != entry["token"]:  # else the store's answer was lost after the deed
                return False
        state.apply(number, entry)
        if number % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
            self._write_checkpoint(state)
        return True

    def read_entry(self, number: int) -> dict[str, Any]:
        """Raises UnreadableError for an entry that is damaged."""
        data = self.folder.read(self._entry_name(number))
        if not data:  # of a writer that was killed on a disk without hard links
            return {}
        return dict(self._parse(self._entry_name(number), data))

    def _read_entries(self, numbers: list[int]) -> list[dict[str, Any]]:
        if self.folder.reads_at_once == 1 or len(numbers) < 2:
            return [self.read_entry(number) for number in numbers]
        with ThreadPoolExecutor(self.folder.reads_at_once) as pool:
            return list(pool.map(self.read_entry, numbers))

    def _read_checkpoint(self, number: int) -> LogState:
        name = self._checkpoint_name(number)
        return LogState.from_json(self._parse(name, self.folder.read(name)))

    def _write_checkpoint(self, state: LogState) -> None:
        """Whoever writes it writes the same; the one before stays for those who have just listed it."""
        self.folder.write(self._checkpoint_name(state.head), to_json(state.to_json()))
        old = state.head - 2 * CHECKPOINT_EVERY
        if old >= 0:
            self.folder.remove(self._checkpoint_name(old))

    def _parse(self, name: str, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise UnreadableError(
                f"{self.folder.path(name)} is damaged, and says which parts count; restore it from a copy"
            ) from None

    def _entry_name(self, number: int) -> str:
        return f"{self.name}/{number:08d}.json"

    def _checkpoint_name(self, number: int) -> str:
        return f"{self.name}/{number:08d}.checkpoint.json"


class LogWriter:
    """One run's hold of a log: it can append until another run opens an epoch."""

    def __init__(self, log: CommitLog, state: LogState) -> None:
        self.log = log
        self.state = state
        self._opening = state.opening

    def commit(self, add: Sequence[str] = (), remove: Sequence[str] = (), at_once: bool = False) -> None:
        """Let the files `add` count and `remove` no longer. Raises FencedError if the round is another run's."""
        self._append({"add": list(add), "remove": list(remove), **({"at_once": True} if at_once else {})})

    def close(self) -> None:
        """Give the log back. Raises FencedError if the round is another run's."""
        self._append({"close": True})

    def _append(self, content: dict[str, Any]) -> None:
        while self.state.opening == self._opening:
            if self.log.create(self.state, {"opening": self._opening, **content}):
                return
            number = self.state.head + 1
            self.state.apply(number, self.log.read_entry(number))
        raise FencedError(
            f"output: {self.log.folder.uri}/{self.log.name.partition('/')[0]}: run {self.state.run_id} has taken this "
            "round over, as this one gave no sign of life; what was committed stays, and nothing more is written; run "
            "the same command when that run has ended"
        )


def open_epoch(
    log: CommitLog,
    run_id: str,
    owner: dict[str, Any] | None,
    refuse: Callable[[LogState], None],
    adopted: Callable[[], dict[str, list[str]]],
) -> LogWriter:
    """Take the log over from whoever had it. `refuse` raises where that run may be alive; `adopted` gives the files of
    a round that has no log yet: those to `add`, and those that others of them have `replaced`."""
    while True:
        state = log.read()
        refuse(state)
        if log.create(state, {"open": owner, "run_id": run_id, **({} if state.head >= 0 else adopted())}):
            return LogWriter(log, state)
