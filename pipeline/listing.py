"""Which images there are: a folder, a glob or one file, through fsspec."""

import glob
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from fsspec.core import url_to_fs

IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "tga", "avif"),
    )
)

LISTING = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("source_etag", pa.string())])


def list_images(source: str) -> pa.Table:
    """(image_id, uri, source_etag) of every image, sorted by id.

    A folder gives the files of known image suffixes below it, a glob every file it matches. Raises ValueError for
    an input that does not exist, cannot be read or holds no image.
    """
    fs, root = url_to_fs(source)
    try:
        found = sorted(_find(fs, root, source))
    except (OSError, PermissionError) as error:
        raise ValueError(f"input: {source!r} cannot be read ({error}); check the path and its permissions") from None
    if not found:
        raise ValueError(f"input: {source!r} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check the path")
    columns = zip(*found, strict=True)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=LISTING)


def _find(fs: Any, root: str, source: str) -> Iterator[tuple[str, str, str]]:
    if glob.has_magic(root):
        base = PurePosixPath(root.split("*", 1)[0].split("?", 1)[0].split("[", 1)[0] + "x").parent
        infos = fs.glob(root, detail=True).values()
    elif not fs.exists(root):
        raise ValueError(f"input: {source!r} does not exist; give a folder of images, a glob or one image")
    elif fs.isdir(root):
        base = PurePosixPath(root)
        fs.ls(root, detail=False)  # raises where the folder itself may not be read, which `find` passes over
        infos = (
            info
            for info in fs.find(root, detail=True).values()
            if PurePosixPath(info["name"]).suffix.lower() in IMAGE_SUFFIXES
        )
    else:
        base, infos = PurePosixPath(root).parent, [fs.info(root)]
    for info in infos:
        if info["type"] == "file":
            path = PurePosixPath(info["name"])
            yield _text(str(path.relative_to(base))), _text(fs.unstrip_protocol(info["name"])), _etag(info)


def _etag(info: dict[str, Any]) -> str:
    """The store's own tag of the content, or size and modification time."""
    tag = info.get("ETag")
    return str(tag).strip('"') if tag else f"{info['size']}-{info.get('mtime', info.get('LastModified', ''))}"


def _text(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 are spelled out (such a file cannot be opened by that name)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
