"""Read the bytes of an image: a file of any store, or a member of a tar archive by its place in it."""

from functools import lru_cache
from typing import Any, BinaryIO

import fsspec

from stages.address import is_archive, readings
from stages.bucket_keys import VERSION_MARK, LiteralKeys
from stages.retry import retried
from stages.tar_index import Member, TarIndex, read_index

INDEX_BLOCK_BYTES = 1 << 20  # of an archive in a bucket, read at a time for its headers
# What an image may hold: sixteen bits a sample of 170 million pixels uncompressed, and no more than memory can bear.
MAX_BYTES = 1 << 30


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI or path, and the path in it. Unlike fsspec's own `url_to_fs`, `::` in a name is
    no chain of filesystems, and `?versionId=` is part of a key."""
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    if protocol in LiteralKeys.protocol:
        return LiteralKeys(), LiteralKeys._strip_protocol(uri)
    kind = fsspec.get_filesystem_class(protocol)
    return fsspec.filesystem(protocol, **kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)


def read_source(uri: str, offset: int | None, size: int | None, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes at `uri`; of an archive's member, `size` bytes at `offset`, which are looked up when not given.

    Raises ValueError for a member outside its archive, a damaged or compressed archive, and more than `max_bytes`,
    which are not read; and the store's own error when it goes on failing.
    """
    file, member = _place(uri, offset, size)
    if member is None:
        return _read_file(file, max_bytes)
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise ValueError(f"member {member.name!r} leaves its archive")
    _check_bytes(member.size, max_bytes)
    fs, path = open_filesystem(file)
    start, stop = member.offset, member.offset + member.size
    data = retried(lambda: fs.cat_file(path, start=start, end=stop)) if member.size else b""
    if len(data) != member.size:
        raise ValueError(f"the archive ends {member.size - len(data)} bytes before the member does")
    return bytes(data)


def find_file(uri: str) -> str | None:
    """The file at `uri`, or the archive that a member of it names; None if neither is there."""
    for address in readings(uri):
        info = file_info(address.file)
        if info is not None and info["type"] == "file":
            return address.file
    return None


def file_info(uri: str) -> dict[str, Any] | None:
    """What the store says about a file or folder; None if there is none."""
    try:
        return _opened(uri)[2]
    except (FileNotFoundError, NotADirectoryError):
        return None


def source_etag(uri: str) -> str:
    """The tag of a file as it stands; of a member that of its archive."""
    return etag(_opened(find_file(uri) or uri)[2])


def etag(info: dict[str, Any]) -> str:
    """From what a store says about a file: its own tag of the content, or size and modification time."""
    tag = info.get("ETag") or info.get("etag")
    return str(tag).strip('"') if tag else f"{info['size']}-{info.get('mtime', info.get('LastModified', ''))}"


def index_archive(uri: str) -> TarIndex:
    """The members of an archive, its headers read anew."""
    with _open_archive(uri) as file:
        return read_index(file)


def _place(uri: str, offset: int | None, size: int | None) -> tuple[str, Member | None]:
    """The file or archive that `uri` names, and which part of it."""
    *members, whole = readings(uri)
    if len(members) == 1 and offset is not None and size is not None:
        return members[0].file, Member(str(members[0].member), offset, size)
    lacking = None
    for address in members:
        info = file_info(address.file)
        if info is None or info["type"] != "file":
            continue
        index = _index(address.file, etag(info))
        if (found := index.members.get(str(address.member))) is not None:
            return address.file, found
        lacking = lacking or (index.damage, f"no member {address.member!r} in {address.file}")
    if lacking and file_info(whole.file) is None:
        damage, reason = lacking
        raise ValueError(damage) if damage else FileNotFoundError(reason)
    return whole.file, None


def _read_file(uri: str, max_bytes: int) -> bytes:
    fs, path, info = _opened(uri)
    size = info.get("size")
    if info["type"] != "file" or size is None:
        return bytes(retried(lambda: fs.cat_file(path)))
    _check_bytes(size, max_bytes)
    if is_archive(uri):
        raise ValueError(_index(uri, etag(info)).damage or "an archive is no image; name ARCHIVE.tar!MEMBER")
    if "s3" not in fs.protocol:
        return bytes(retried(lambda: fs.cat_file(path)))
    # a whole read would ask for the size once more
    return bytes(retried(lambda: fs.cat_file(path, start=0, end=size))) if size else b""


def _opened(uri: str) -> tuple[Any, str, dict[str, Any]]:
    """A filesystem, the path in it, and what it says about that."""
    fs, path = open_filesystem(uri)
    try:
        return fs, path, dict(retried(lambda: fs.info(path)))
    except FileNotFoundError:
        if "s3" not in fs.protocol or VERSION_MARK not in path:
            raise
    versions = fsspec.filesystem("s3", version_aware=True)  # no key of that whole name: a version of another one
    return versions, path, dict(retried(lambda: versions.info(path)))


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f"{size:,} bytes are above decode.max_bytes={max_bytes}")


def _open_archive(uri: str) -> BinaryIO:
    """From a bucket it comes in blocks, as they are needed."""
    fs, path = open_filesystem(uri)
    if "file" in fs.protocol:
        return open(path, "rb")
    return fs.open(path, "rb", block_size=INDEX_BLOCK_BYTES, cache_type="readahead")


@lru_cache(maxsize=4)
def _index(archive: str, tag: str) -> TarIndex:
    """Read once a process as long as the archive stays as it is; for URIs that come without their place."""
    return index_archive(archive)
