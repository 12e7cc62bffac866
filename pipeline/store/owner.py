"""Who holds a round: one process of one boot of one machine, and whether it is known to be gone."""

import os
import secrets
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

BOOT_TIME_SLACK = 5.0  # by which the system's own account of when processes began may move


@dataclass(frozen=True)
class Owner:
    """`lease` is a token of its own for each hold. `boot_id` and `pid_namespace` say in which world `pid` counts: two
    containers, or two machines of one host name, number their processes apart."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    began: float = field(default_factory=lambda: psutil.Process().create_time())
    user: int = field(default_factory=os.getuid)
    boot_id: str | None = field(default_factory=lambda: _boot_id())
    pid_namespace: int | None = field(default_factory=lambda: _pid_namespace())
    lease: str = field(default_factory=lambda: secrets.token_hex(4))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether the process is certainly no more: told only within its own world, and where it would be seen."""
    world = (owner.get("boot_id"), owner.get("pid_namespace"))
    if None in world or world != (_boot_id(), _pid_namespace()) or not isinstance(owner.get("pid"), int):
        return False
    if not _sees_processes_of(owner.get("user")):
        return False
    try:
        created = psutil.Process(owner["pid"]).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    # the same number, but of a later process
    return abs(created - owner.get("began", created)) >= BOOT_TIME_SLACK


def _sees_processes_of(user: int | None) -> bool:
    """`/proc` may be mounted so that it hides other users' processes, the first one's among them (`hidepid`)."""
    return os.getuid() in (0, user) or Path("/proc/1/stat").exists()


def _boot_id() -> str | None:
    if sys.platform == "linux":
        with suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _pid_namespace() -> int | None:
    if sys.platform == "linux":
        with suppress(OSError):
            return os.stat("/proc/self/ns/pid").st_ino
    return None
