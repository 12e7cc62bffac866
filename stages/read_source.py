"""Read the bytes of an image: a file of any store, or a member of a tar archive by its place in it."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import fsspec

from stages.retry import retried

ARCHIVE_SUFFIX = ".tar"
MEMBER_MARK = f"{ARCHIVE_SUFFIX}!"  # `archive.tar!member`
INDEX_BLOCK_BYTES = 1 << 20  # of an archive in a bucket, read at a time for its headers


@dataclass(frozen=True)
class Member:
    """A regular file in an archive: its `size` bytes stand at `offset`."""

    name: str
    offset: int
    size: int


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI or path, and the path in it. Unlike fsspec's own `url_to_fs`, `::` in a name is
    no chain of filesystems."""
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    kind = fsspec.get_filesystem_class(protocol)
    return fsspec.filesystem(protocol, **kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)


def read_source(uri: str, offset: int | None, size: int | None) -> bytes:
    """The bytes at `uri`; of an archive's member, `size` bytes at `offset`, which are looked up when not given.

    Raises ValueError for a member outside its archive, and the store's own error when it goes on failing.
    """
    archive, member = split_member(uri)
    fs, path = open_filesystem(archive)
    if member is None:
        if archive.endswith(ARCHIVE_SUFFIX):
            raise ValueError("the archive is cut short or damaged: what follows its last whole member is not listed")
        return retried(lambda: fs.cat_file(path))
    if member.startswith("/") or ".." in member.split("/"):
        raise ValueError(f"member {member!r} leaves its archive")
    if offset is None or size is None:
        found = _index(archive).get(member)
        if found is None:
            raise FileNotFoundError(f"no member {member!r} in {archive}")
        offset, size = found.offset, found.size
    start, stop = offset, offset + size
    data = retried(lambda: fs.cat_file(path, start=start, end=stop)) if size else b""
    if len(data) != size:
        raise ValueError(f"the archive ends {size - len(data)} bytes before the member does")
    return data


def source_etag(uri: str) -> str:
    """The tag of a file as it stands; of a member that of its archive."""
    fs, path = open_filesystem(split_member(uri)[0])
    return etag(retried(lambda: fs.info(path)))


def etag(info: dict[str, Any]) -> str:
    """From what a store says about a file: its own tag of the content, or size and modification time."""
    tag = info.get("ETag") or info.get("etag")
    return str(tag).strip('"') if tag else f"{info['size']}-{info.get('mtime', info.get('LastModified', ''))}"


def split_member(uri: str) -> tuple[str, str | None]:
    """`archive.tar!member` in its two halves; any other URI is whole."""
    archive, mark, member = uri.partition(MEMBER_MARK)
    return (archive + ARCHIVE_SUFFIX, member) if mark else (uri, None)


def tar_members(file: BinaryIO) -> Iterator[Member]:
    """Regular members in order, by reading headers only. Raises tarfile.ReadError where the archive is damaged."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
            if info.isreg() and not info.issparse():
                yield Member(info.name.removeprefix("./"), info.offset_data, info.size)
        # the library takes a broken header for the end, which is a block of zeros
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end where the last member ends, at byte {archive.offset}")


def open_archive(uri: str) -> BinaryIO:
    """An archive for `tar_members`; from a bucket it comes in blocks, as they are needed."""
    fs, path = open_filesystem(uri)
    if "file" in fs.protocol:
        return open(path, "rb")
    return fs.open(path, "rb", block_size=INDEX_BLOCK_BYTES, cache_type="readahead")


@lru_cache(maxsize=4)
def _index(archive: str) -> dict[str, Member]:
    """Every member by name, read once a process; for URIs that come without their place, as from a manifest."""
    with open_archive(archive) as file:
        return {member.name: member for member in tar_members(file)}
