"""A process that dies at the n-th change of a store: before it, after it, or with half a file written."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.store.owner import Owner
from pipeline.store.storage import Folder

Moment = Literal["before", "after", "half"]
CHANGES = ("write", "create", "remove", "move")
GONE = replace(Owner(), began=0.0)  # this process's number, given to another one before


class DeathError(BaseException):
    """Nothing catches it, and what would clean up afterwards can change nothing either."""


class Process:
    """Counts the changes, and dies at one of them."""

    def __init__(self, dies_at: int | None = None, moment: Moment = "before") -> None:
        self.dies_at = dies_at
        self.moment = moment
        self.changes = 0
        self.is_dead = False

    def change(self, folder: Folder, name: str, target: str, act: Callable[[], Any]) -> Any:
        if self.is_dead:
            raise DeathError
        self.changes += 1
        if self.changes != self.dies_at:
            return act()
        self.is_dead = True
        if self.moment == "after":
            act()
        elif self.moment == "half" and name in ("write", "create"):
            path = Path(folder.path(target))
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".{path.name}.half.tmp").write_bytes(b"half")
        raise DeathError


@contextmanager
def running(process: Process) -> Iterator[None]:
    """Every `Folder` is this process's; its leases are those of a process that is gone, as soon as it is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            real = getattr(Folder, name)

            def act(folder: Folder, *arguments: Any, _real: Any = real, _name: str = name) -> Any:
                return process.change(folder, _name, arguments[0], lambda: _real(folder, *arguments))

            patch.setattr(Folder, name, act)
        patch.setattr("pipeline.store.lease.Owner", lambda: GONE)
        patch.setattr(os, "fsync", lambda _: None)
        yield
