"""Folders, globs and single files of any store, listed page by page."""

import re
from collections.abc import Iterator
from typing import Any

from pipeline.sources.archives import list_archives
from pipeline.sources.globs import MAGIC, glob_regex, static_folder
from pipeline.sources.listing_schema import in_batches
from pipeline.sources.notes import ListingNotes
from pipeline.sources.stored import StoredFiles
from stages.address import COMPRESSED_SUFFIXES, is_archive
from stages.read_source import etag, file_info, open_filesystem

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".avif"),
)


def list_files(source: str, notes: ListingNotes, own_folders: set[str]) -> Iterator[Any]:
    """Tables of a listing, sorted by id within what one page of the store gives; `notes` counts what is left out, and
    `own_folders` gains the URIs of the datasets and exports among it, whose pictures come all the same.

    A folder gives the files of known image suffixes below it, a glob every file it matches; an archive stands for the
    images in it. Raises ValueError if there is nothing of that name, or a compressed archive.
    """
    fs, root = open_filesystem(source)
    info = file_info(source)
    if info is None and not MAGIC.search(root):
        raise ValueError(f"input: {source!r} does not exist; give a folder, a glob, an archive, a manifest or an image")
    if info is not None and info["type"] != "directory":
        if root.lower().endswith(COMPRESSED_SUFFIXES):
            raise ValueError(
                f"input: {source!r} is a compressed archive, whose members have no place to be read from; unpack it, "
                "or make a plain .tar of it"
            )
        yield from _tables(fs, root.rpartition("/")[0], iter([info]), notes)
        return
    base = root if info is not None else static_folder(root)
    depth = None if info is not None or "**" in root else root.count("/") - base.count("/")
    stored = StoredFiles(fs, base, depth, notes)
    wanted = _images(stored, notes) if info is not None else _matching(stored, root, notes)
    yield from _tables(fs, base, wanted, notes)
    own_folders.update(text(fs.unstrip_protocol(folder)) for folder in stored.own_folders)


def _images(stored: StoredFiles, notes: ListingNotes) -> Iterator[dict[str, Any]]:
    for info in stored:
        if info["name"].lower().endswith(IMAGE_SUFFIXES):
            yield info
        else:
            notes.leave_out(info["name"])


def _matching(stored: StoredFiles, pattern: str, notes: ListingNotes) -> Iterator[dict[str, Any]]:
    wanted = re.compile(glob_regex(pattern) + r"\Z")
    for info in stored:
        if not wanted.match(info["name"]):
            continue
        if info["name"].lower().endswith(COMPRESSED_SUFFIXES):
            notes.leave_out(info["name"])
        else:
            yield info


def _tables(fs: Any, folder: str, infos: Iterator[dict[str, Any]], notes: ListingNotes) -> Iterator[Any]:
    archives: list[tuple[str, str, str]] = []
    base = folder.rstrip("/") + "/"

    def rows() -> Iterator[tuple[Any, ...]]:
        for info in infos:
            name = info["name"]
            image_id = text(name.removeprefix(base) if base != "/" else name.lstrip("/"))
            uri = text(fs.unstrip_protocol(name))
            if is_archive(name):
                archives.append((image_id, uri, etag(info)))
            else:
                yield image_id, uri, etag(info), None, None

    yield from in_batches(rows())
    yield from list_archives(sorted(archives), IMAGE_SUFFIXES, notes)


def text(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 are spelled out (such a file cannot be opened by that name)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
