"""Addresses of images: a file of any store, or a member of a tar archive, written `archive.tar!member`."""

import os
import re
from dataclasses import dataclass

ARCHIVE_SUFFIX = ".tar"
COMPRESSED_SUFFIXES = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z"),
    *(".zip", ".7z", ".rar"),
)
_MARK = re.compile(r"\.tar!", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """`file` is a URI or a path; where `member` is given, that of an archive which holds it. `str` writes both as one
    text, and `readings` reads it."""

    file: str
    member: str | None = None

    def __str__(self) -> str:
        return self.file if self.member is None else f"{self.file}!{self.member}"


def readings(uri: str) -> list[Address]:
    """What a URI may name, the likeliest first: a member of the archive that its first `.tar!` ends (of the second …),
    or, as any file may be named so, the file of that whole name."""
    members = [Address(uri[: mark.end() - 1], uri[mark.end() :]) for mark in _MARK.finditer(uri)]
    return [*members, Address(uri)]


def absolute(name: str) -> str:
    """A path on this machine from the root on; a URI as it is."""
    return name if "://" in name else os.path.abspath(name)


def is_archive(name: str) -> bool:
    """Whether a file of that name is taken for a tar archive, whatever the case of its suffix."""
    return name.lower().endswith(ARCHIVE_SUFFIX)


def member_name(stored: str) -> str:
    """A member's name as text, without the `./` that tar puts before it; bytes that are no UTF-8 are spelled out."""
    while stored.startswith("./"):
        stored = stored[2:].lstrip("/")
    return stored.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def sample_key(member: str) -> str:
    """WebDataset's key of a member: its folder and its base name up to the first dot. What shares one is a sample."""
    folder, mark, base = member.rpartition("/")
    return folder + mark + base.partition(".")[0]


def suffix_of(name: str) -> str:
    """The last suffix of a base name in small letters, `.jpg`; empty where it has none, or is nothing but one."""
    base = re.split(r"[/!]", name)[-1]
    stem, mark, last = base.rpartition(".")
    return f".{last.lower()}" if mark and stem else ""
