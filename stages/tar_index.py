"""The members of a tar archive, known from its headers alone: what `tar -x` would leave, and where it stands."""

import tarfile
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from stages.address import member_name

_MAX_HEADER_BYTES = 1 << 20  # of a name or a pax record, which headers may claim to be as long as they like
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\3\4": "zip",
}


@dataclass(frozen=True)
class Member:
    """A regular file in an archive: its `size` bytes stand at `offset`."""

    name: str
    offset: int
    size: int


@dataclass
class TarIndex:
    """`members` by name; of a name that comes again the last copy counts, as `tar -x` writes it over the others.
    `not_taken` counts members that are no regular files and copies that later ones replace. `damage` says why nothing
    is known of what follows the last member."""

    members: dict[str, Member] = field(default_factory=dict)
    not_taken: Counter[str] = field(default_factory=Counter)
    damage: str | None = None


def read_index(file: BinaryIO) -> TarIndex:
    """Reads every header of an archive, and no content."""
    index = TarIndex()
    start = file.read(6)
    for magic, compression in _COMPRESSIONS.items():
        if start.startswith(magic):
            index.damage = f"the archive is compressed ({compression}), which leaves members no place; unpack it"
            return index
    file.seek(0)
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
                _add(index, info)
            # the library takes a broken header for the end, which is a block of zeros
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError
    except (tarfile.TarError, EOFError):
        index.damage = "the archive is cut short or damaged: what follows its last whole member is not listed"
    return index


def _add(index: TarIndex, info: tarfile.TarInfo) -> None:
    name = member_name(info.name)
    if info.isdir():
        return
    if index.members.pop(name, None) is not None:
        index.not_taken["copies in archives that later ones of the same name replace"] += 1
    if info.isreg() and not info.issparse():
        index.members[name] = Member(name, info.offset_data, info.size)
    elif info.issym() or info.islnk():
        index.not_taken["links in archives"] += 1
    else:
        index.not_taken["sparse and special members of archives"] += 1


class _Headers:
    """A file that refuses to be read by more than a header may take."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
