"""The lease that keeps two live runs off one round, or one shard of it, politely: the entry that opens an epoch in the
log of commits names its holder, and a heartbeat beside it shows that the holder lives. Whoever comes meanwhile is
refused; what a run writes that is taken for dead and is not, the log keeps out."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import FencedError, RunError, StoreError
from pipeline.store.commit_log import LogState
from pipeline.store.discard import discard_round
from pipeline.store.owner import Owner, is_gone
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.tidy import tidy

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 300.0


@contextmanager
def hold_lease(target: Round, run_id: str) -> Iterator["Lease"]:
    """Hold the round for one run; a heartbeat shows that it lives and how far it is.

    A lease whose process is gone (same machine) or that was silent for STALE_SECONDS is taken over, by one run only.
    Raises RunError when another run is alive, or may be: what is right later is no mistake in the command.
    """
    lease = Lease(target, run_id)
    lease.acquire()
    thread = threading.Thread(target=lease.beat_until_released, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.released.set()
        thread.join()
        lease.release()


@contextmanager
def discarding(lease: "Lease") -> Iterator[None]:
    """Work on a round of which nothing stays if it fails."""
    try:
        yield
    except FencedError:
        raise
    except BaseException:
        lease.discards = True
        raise


def live_leases(target: Round) -> list[dict[str, Any]]:
    """Of every run that works on the round, its shards' included: who it is (`Owner`), its run_id, the heartbeat
    (seconds since the epoch) and the progress."""
    found = {}
    for state in target.read_log():
        held = _held(target, state)
        if held is not None and is_live(held, target.folder.now()):
            found[held["lease"]] = held
    return list(found.values())


def is_live(held: dict[str, Any], now: float) -> bool:
    """Whether the run that holds it still works."""
    return not is_gone(held) and now - held["heartbeat"] < STALE_SECONDS


def _held(target: Round, state: LogState) -> dict[str, Any] | None:
    """Its holder's last sign of life, None where nobody holds it."""
    if state.owner is None:
        return None
    held = {**state.owner, "run_id": state.run_id, "progress": {}}
    data = target.folder.read_optional(_beat_name(target, state.owner["lease"]))
    with suppress(ValueError):
        held |= json.loads(data or b"{}")
    return held


class Lease:
    """One run's hold on a round."""

    def __init__(self, target: Round, run_id: str, owner: Owner | None = None) -> None:
        self.target = target
        self.run_id = run_id
        self.owner = owner or Owner()
        self.progress: dict[str, Any] = {}
        self.released = threading.Event()
        self.discards = False  # the round with its end, as if it had not been begun

    def acquire(self) -> None:
        folder = self.target.folder
        if not folder.probe_create(f"{self.target.name}/_probe"):
            _warn(folder)
        owner = {**self.owner.as_dict(), "heartbeat": folder.now()}
        self.target.begin(self.run_id, owner, self._refuse_if_live)
        try:
            tidy(self.target)
        except BaseException:
            self.release()
            raise

    def _refuse_if_live(self, state: LogState) -> None:
        held, now = _held(self.target, state), self.target.folder.now()
        if held is None or held["lease"] == self.owner.lease:
            return
        if is_live(held, now):
            raise RunError(
                f"output: run {held['run_id']} (process {held['pid']} on {held['host']}, last sign of life "
                f"{now - held['heartbeat']:.0f} s ago) is writing {self.target.folder.uri}/{self.target.name}; "
                f"wait for it, or until it has been silent for {STALE_SECONDS:.0f} s, or choose another output"
            )
        self.target.folder.remove(_beat_name(self.target, held["lease"]))

    def beat_until_released(self) -> None:
        while not self.released.wait(HEARTBEAT_SECONDS):
            with suppress(Exception):  # a store that is away for a moment, in errors of its own, costs a heartbeat only
                self.beat()

    def beat(self) -> None:
        """The file is this lease's own, whoever holds the round by now."""
        content = {"heartbeat": self.target.folder.now(), "progress": self.progress}
        self.target.folder.write(_beat_name(self.target, self.owner.lease), json.dumps(content).encode())

    def release(self) -> None:
        with suppress(StoreError, FencedError):  # it will be stale, or is another's; what the run has to say is more
            if self.discards:
                discard_round(self.target)
            self.target.end()
        with suppress(StoreError):
            self.target.folder.remove(_beat_name(self.target, self.owner.lease))


def _beat_name(target: Round, lease: str) -> str:
    return f"{target.name}/_lease-{lease}.json"


def _warn(folder: Folder) -> None:
    print(
        f"output: {folder.uri} cannot make a file only if it is absent (a disk without hard links, or a store without "
        f"conditional writes): nothing but the lease keeps two runs apart there, so let one run write it at a time",
        file=sys.stderr,
    )
