"""The lease that keeps two live runs off one round. Correctness never depends on it: parts are whole either way."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from pipeline.rounds import Round

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 300.0


@contextmanager
def hold_lease(target: Round, run_id: str) -> Iterator["Lease"]:
    """Hold the round for one run; a heartbeat shows that it lives and how far it is.

    Where the store can create a file only if it is absent, two runs cannot both pass; elsewhere it is best effort.
    A lease whose process is gone (same machine) or that was silent for STALE_SECONDS is taken over. Raises ValueError
    when another run is alive.
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


def read_lease(target: Round) -> dict[str, Any] | None:
    """The lease as it stands (run_id, host, pid, heartbeat in seconds since the epoch, progress), or None."""
    try:
        content = target.folder.read_json(_name(target))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and "run_id" in content else None


def is_live(lease: dict[str, Any]) -> bool:
    """Whether the run that holds it still works."""
    if lease["host"] == socket.gethostname() and not psutil.pid_exists(lease["pid"]):
        return False
    return time.time() - lease["heartbeat"] < STALE_SECONDS


class Lease:
    """One run's hold on a round."""

    def __init__(self, target: Round, run_id: str) -> None:
        self.target = target
        self.run_id = run_id
        self.progress: dict[str, Any] = {}
        self.released = threading.Event()

    def acquire(self) -> None:
        if self.target.folder.create(_name(self.target), self._content()):
            return
        held = read_lease(self.target)
        if held is not None and is_live(held):
            silent = time.time() - held["heartbeat"]
            raise ValueError(
                f"output: run {held['run_id']} (process {held['pid']} on {held['host']}, last sign of life "
                f"{silent:.0f} s ago) is writing {self.target.folder.uri}/{self.target.name}; "
                "wait for it or choose another output"
            )
        self.target.folder.write(_name(self.target), self._content())

    def beat_until_released(self) -> None:
        while not self.released.wait(HEARTBEAT_SECONDS):
            try:
                self.target.folder.write(_name(self.target), self._content())
            except Exception:  # a store that is away for a moment, in errors of its own kinds, costs a heartbeat only
                continue

    def release(self) -> None:
        held = read_lease(self.target)
        if held is not None and held["run_id"] == self.run_id:
            self.target.folder.remove(_name(self.target))

    def _content(self) -> bytes:
        content = {
            "run_id": self.run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "heartbeat": time.time(),
            "progress": self.progress,
        }
        return json.dumps(content).encode()


def _name(target: Round) -> str:
    return f"{target.name}/_lease.json"
