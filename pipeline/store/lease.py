"""The lease that keeps two live runs off one round, or one shard of it. Correctness never depends on it: parts are
whole either way."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from pipeline.errors import RunError, StoreError
from pipeline.store.rounds import Round

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 300.0
BOOT_TIME_SLACK = 5.0  # by which the system's own account of when processes began may move


@contextmanager
def hold_lease(target: Round, run_id: str) -> Iterator["Lease"]:
    """Hold the round for one run; a heartbeat shows that it lives and how far it is.

    Where the store can create a file only if it is absent, two runs cannot both pass; elsewhere it is best effort.
    A lease whose process is gone (same machine) or that was silent for STALE_SECONDS is taken over. Raises RunError
    when another run is alive, or may be: what is right later is no mistake in the command.
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
        with suppress(StoreError):  # it will be stale, and what the run has to say is more than that
            lease.release()


def read_lease(target: Round) -> dict[str, Any] | None:
    """The lease as it stands (run_id, host, pid, heartbeat in seconds since the epoch, progress), or None."""
    return _read(target, lease_name(target))


def live_leases(target: Round) -> list[dict[str, Any]]:
    """Of every run that works on the round, its shards' included."""
    held = [_read(target, name) for name in target.folder.names(target.name, "_lease", ".json")]
    return [lease for lease in held if lease and is_live(lease)]


def _read(target: Round, name: str) -> dict[str, Any] | None:
    try:
        content = target.folder.read_json(name)
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and "run_id" in content else None


def is_live(lease: dict[str, Any]) -> bool:
    """Whether the run that holds it still works."""
    if lease["host"] == socket.gethostname() and not _runs(lease["pid"], lease.get("began")):
        return False
    return time.time() - lease["heartbeat"] < STALE_SECONDS


def _runs(pid: int, began: float | None) -> bool:
    """Whether the process is there, and the same: a container that starts again gives its numbers anew."""
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    return began is None or abs(created - began) < BOOT_TIME_SLACK


class Lease:
    """One run's hold on a round."""

    def __init__(self, target: Round, run_id: str) -> None:
        self.target = target
        self.run_id = run_id
        self.progress: dict[str, Any] = {}
        self.released = threading.Event()

    def acquire(self) -> None:
        name = lease_name(self.target)
        if not self.target.folder.create(name, self._content()):
            held = _read(self.target, name)
            # the store's answer may have been lost after the file was created
            if held is None or held["run_id"] != self.run_id:
                self._refuse_if_live(held)
                self.target.folder.write(name, self._content())
        for rival in _rivals(self.target):
            try:
                self._refuse_if_live(_read(self.target, rival))
            except RunError:
                self.release()
                raise

    def _refuse_if_live(self, held: dict[str, Any] | None) -> None:
        if held is not None and is_live(held):
            silent = time.time() - held["heartbeat"]
            raise RunError(
                f"output: run {held['run_id']} (process {held['pid']} on {held['host']}, last sign of life "
                f"{silent:.0f} s ago) is writing {self.target.folder.uri}/{self.target.name}; "
                f"wait for it, or until it has been silent for {STALE_SECONDS:.0f} s, or choose another output"
            )

    def beat_until_released(self) -> None:
        while not self.released.wait(HEARTBEAT_SECONDS):
            try:
                self.target.folder.write(lease_name(self.target), self._content())
            except Exception:  # a store that is away for a moment, in errors of its own kinds, costs a heartbeat only
                continue

    def release(self) -> None:
        held = read_lease(self.target)
        if held is not None and held["run_id"] == self.run_id:
            self.target.folder.remove(lease_name(self.target))

    def _content(self) -> bytes:
        content = {
            "run_id": self.run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": psutil.Process().create_time(),
            "heartbeat": time.time(),
            "progress": self.progress,
        }
        return json.dumps(content).encode()


def lease_name(target: Round) -> str:
    shard = target.shard
    return f"{target.name}/_lease{f'-{shard.number}-of-{shard.count}' if shard else ''}.json"


def _rivals(target: Round) -> list[str]:
    """Leases that exclude this one: of every shard for the whole round, and of the whole round for a shard."""
    return [f"{target.name}/_lease.json"] if target.shard else target.folder.names(target.name, "_lease-", ".json")
