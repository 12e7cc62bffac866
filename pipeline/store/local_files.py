"""Files on disk that appear whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def replace_file(target: Path, data: bytes) -> None:
    """The file holds `data`, or what it held before."""
    with replacing(target) as file:
        file.write(data)


def create_file(target: Path, data: bytes) -> None:
    """Raises FileExistsError if there is one."""
    with replacing(target, _take_name) as file:
        file.write(data)


def has_links(probe: Path) -> bool:
    """Whether the file system of `probe`, a file that is written for it, has hard links."""
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b"probe")
    other = probe.with_name(f"{probe.name}-again")
    try:
        os.link(probe, other)
    except OSError:
        return False
    other.unlink()
    return True


def _take_name(temporary: str, target: Path) -> None:
    """Raises FileExistsError if the name is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: for a moment readers meet an empty file
        with open(target, "xb"):
            os.replace(temporary, target)


@contextmanager
def replacing(target: Path, put: Callable[[str, Path], None] = os.replace) -> Iterator[IO[bytes]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        put(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # once, as two threads that read it at a time would leave it changed
