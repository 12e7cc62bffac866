"""Folders, globs and single files of any store, listed page by page."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.sources.archives import list_archives
from pipeline.sources.globs import MAGIC, glob_regex, static_folder
from pipeline.sources.listing_schema import in_batches
from stages.read_source import ARCHIVE_SUFFIX, etag, open_filesystem
from stages.retry import retried

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".avif"),
)


def list_files(source: str) -> Iterator[Any]:
    """Tables of a listing, sorted by id within what one page of the store gives.

    A folder gives the files of known image suffixes below it, a glob every file it matches; an archive stands for the
    images in it. Raises ValueError if there is nothing of that name.
    """
    fs, root = open_filesystem(source)
    info = file_info(fs, root)
    if info is None and not MAGIC.search(root):
        raise ValueError(f"input: {source!r} does not exist; give a folder, a glob, an archive, a manifest or an image")
    infos: Iterator[dict[str, Any]]
    if info is None:
        base = static_folder(root)
        wanted = re.compile(glob_regex(root) + r"\Z")
        depth = None if "**" in root else root.count("/") - base.count("/")
        infos = (one for one in below(fs, base, depth) if wanted.match(one["name"]))
    elif info["type"] == "directory":
        base = root
        infos = (one for one in below(fs, root, None) if one["name"].lower().endswith(IMAGE_SUFFIXES))
    else:
        base, infos = root.rpartition("/")[0], iter([info])
    yield from _tables(fs, base.rstrip("/") + "/", infos)


def _tables(fs: Any, base: str, infos: Iterator[dict[str, Any]]) -> Iterator[Any]:
    archives: list[tuple[str, str, str]] = []

    def rows() -> Iterator[tuple[Any, ...]]:
        for info in infos:
            name = info["name"]
            image_id = text(name.removeprefix(base) if base != "/" else name.lstrip("/"))
            uri = text(fs.unstrip_protocol(name))
            if name.endswith(ARCHIVE_SUFFIX):
                archives.append((image_id, uri, etag(info)))
            else:
                yield image_id, uri, etag(info), None, None

    yield from in_batches(rows())
    yield from list_archives(sorted(archives), IMAGE_SUFFIXES)


def file_info(fs: Any, path: str) -> dict[str, Any] | None:
    """What the store says about a file or folder; None if there is none."""
    try:
        return dict(retried(lambda: fs.info(path)))
    except FileNotFoundError:
        return None


def below(fs: Any, root: str, depth: int | None) -> Iterator[dict[str, Any]]:
    """Every file below `root`, `depth` steps down at most."""
    if "s3" in fs.protocol:
        return _objects(fs, root)
    return _walk(fs, root, depth)


def _objects(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    """A page of 1,000 keys at a time; the filesystem's own listing would hold every key of the bucket."""
    bucket, key, _ = fs.split_path(root)
    prefix = f"{key}/" if key else ""
    position: dict[str, str] = {}
    while True:
        page = retried(partial(fs.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, **position))
        for entry in page.get("Contents", []):
            if not entry["Key"].endswith("/"):
                yield {"name": f"{bucket}/{entry['Key']}", "size": entry["Size"], "ETag": entry["ETag"]}
        if not page.get("IsTruncated"):
            return
        position = {"ContinuationToken": page["NextContinuationToken"]}


def _walk(fs: Any, root: str, depth: int | None) -> Iterator[dict[str, Any]]:
    """Folder by folder. A link to a file counts as that file, a link to a folder is not followed."""
    for _, _, files in fs.walk(root or "/", maxdepth=depth, detail=True, on_error="raise"):
        for info in files.values():
            if info.get("islink"):
                target = file_info(fs, info["name"])
                if target is not None and target["type"] == "file":
                    yield target
            elif info["type"] == "file":
                yield info


def text(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 are spelled out (such a file cannot be opened by that name)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
