"""Which videos there are: files of video suffixes, and folders of pictures."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import store_failure
from pipeline.sources.credentials import refuse_credentials
from pipeline.sources.files import text
from pipeline.sources.globs import MAGIC, filter_regex, glob_regex, static_folder
from pipeline.sources.listing_schema import LISTING, listing_table
from pipeline.sources.notes import ListingNotes
from pipeline.sources.stored import StoredFiles
from stages.frame_folder import is_frame
from stages.read_source import etag, file_info, open_filesystem
from stages.video_file import VIDEO_SUFFIXES


def list_videos(
    source: str | Sequence[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    notes: ListingNotes | None = None,
) -> pa.Table:
    """Every video of the sources as a table LISTING, sorted by `image_id`, which is the path below the source (of a
    list the whole URI).

    A source is a folder, a glob or a file of any store. A folder that holds pictures is one video, whose tag changes
    when any of them does. `include` and `exclude` are globs over ids. `notes` counts the files that are neither.
    Raises ValueError for an input that does not exist, cannot be read, holds credentials or holds no video,
    and RunError where its store does not answer now.
    """
    notes = ListingNotes() if notes is None else notes
    sources = [source] if isinstance(source, str) else list(source)
    found: dict[str, tuple[str, str]] = {}
    for one in sources:
        refuse_credentials("input", one)
        try:
            found |= _videos(one, len(sources) > 1, notes)
        except ValueError:
            raise
        except Exception as error:  # each store has errors of its own kinds
            remedy = "check the path, its permissions and, of a bucket, the credentials"
            raise store_failure(f"input: {one!r} cannot be read", error, remedy) from None
    rows = [(video_id, *found[video_id]) for video_id in sorted(found)]
    columns = dict(zip(("image_id", "uri", "source_etag"), zip(*rows, strict=True), strict=True)) if rows else {}
    listing = listing_table(len(rows), columns)
    for patterns, wanted in ((include, True), (exclude, False)):
        if patterns:
            matches = pc.match_substring_regex(listing["image_id"], "|".join(map(filter_regex, patterns)))
            listing = listing.filter(matches if wanted else pc.invert(matches))
    if listing.num_rows == 0:
        named = ", ".join(map(repr, sources))
        raise ValueError(
            f"input: {named} holds no videos ({', '.join(VIDEO_SUFFIXES)}, or folders of pictures); check the path"
        )
    assert listing.schema.equals(LISTING)
    return listing


def _videos(source: str, whole_ids: bool, notes: ListingNotes) -> dict[str, tuple[str, str]]:
    """id → (uri, tag)."""
    fs, root = open_filesystem(source)
    info = file_info(source)
    if info is None and not MAGIC.search(root):
        raise ValueError(f"input: {source!r} does not exist; give a folder, a glob or a video")
    if info is not None and info["type"] != "directory":
        base, tags = root.rpartition("/")[0], _tags([info], notes)
    else:
        base = root if info is not None else static_folder(root)
        stored = StoredFiles(fs, base, None, notes)
        tags = _tags(stored, notes)
        inside = tuple(f"{folder}/" for folder in stored.own_folders)
        tags = {name: tag for name, tag in tags.items() if not f"{name}/".startswith(inside)}
    wanted = re.compile(glob_regex(root) + r"\Z") if info is None else None
    return {
        _id(fs, name, base, whole_ids): (text(fs.unstrip_protocol(name)), tag)
        for name, tag in tags.items()
        if wanted is None or wanted.match(name)
    }


def _tags(infos: Iterable[dict[str, Any]], notes: ListingNotes) -> dict[str, str]:
    """Of each video by its name in the store."""
    tags: dict[str, str] = {}
    folders: dict[str, list[str]] = {}
    for info in infos:
        name: str = info["name"]
        folder, _, base = name.rpartition("/")
        if name.lower().endswith(VIDEO_SUFFIXES):
            tags[name] = etag(info)
        elif is_frame(base):
            folders.setdefault(folder, []).append(f"{name} {etag(info)}")
        else:
            notes.leave_out(name)
    for name, frames in folders.items():
        tags[name] = hashlib.sha256("\n".join(sorted(frames)).encode()).hexdigest()[:32]
    return tags


def _id(fs: Any, name: str, base: str, whole: bool) -> str:
    if whole:
        return text(fs.unstrip_protocol(name))
    below_base = name.removeprefix(base.rstrip("/")).lstrip("/")
    return text(below_base or name.rpartition("/")[2])  # the input itself is a folder of pictures
