"""The files that a store holds below a folder, page by page, and what among them is nobody's picture."""

import errno
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.sources.notes import LITTER, ListingNotes, is_litter
from stages.retry import retried

_MARKERS = ("/_dataset.json", "/_export/settings.json")  # by which a dataset or an export of ours is known


class StoredFiles:
    """Files below `root`, `depth` steps down at most; `own_folders` are, once all have come, the datasets and exports
    met on the way (not `root` itself), whose pictures are results and no input."""

    def __init__(self, fs: Any, root: str, depth: int | None, notes: ListingNotes) -> None:
        self._fs = fs
        self._root = root
        self._depth = depth
        self._notes = notes
        self.own_folders: set[str] = set()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        below = len(self._root.rstrip("/")) + 1
        found = _objects(self._fs, self._root) if "s3" in self._fs.protocol else self._walk(self._root, self._depth)
        for info in found:
            name: str = info["name"]
            for marker in _MARKERS:
                if name.endswith(marker) and len(name) - len(marker) > below:
                    self.own_folders.add(name.removesuffix(marker))
            if is_litter(name[below:]):
                self._notes.not_taken[LITTER] += 1
            else:
                yield info

    def _walk(self, folder: str, depth: int | None) -> Iterator[dict[str, Any]]:
        """Folder by folder. A link to a file counts as that file, a link to a folder is not followed."""
        inside: list[str] = []
        for info in retried(lambda: self._fs.ls(folder or "/", detail=True)):
            if info.get("islink"):
                info = self._target(info["name"])
            if info is None or info["name"].rstrip("/") == folder.rstrip("/"):
                continue
            if info["type"] == "directory":
                inside.append(info["name"])
            elif info["type"] == "file":
                yield info
            else:
                self._notes.not_taken["pipes, devices and sockets"] += 1
        if depth == 1:
            return
        for name in inside:
            try:
                yield from self._walk(name, None if depth is None else depth - 1)
            except PermissionError:
                self._notes.not_taken["folders that may not be read"] += 1

    def _target(self, link: str) -> dict[str, Any] | None:
        try:
            info = dict(retried(lambda: _linked(self._fs, link)))
        except (FileNotFoundError, PermissionError):
            self._notes.not_taken["links that lead nowhere"] += 1
            return None
        if info["type"] == "directory":
            self._notes.not_taken["links to folders"] += 1
            return None
        return info


def _linked(fs: Any, link: str) -> Any:
    try:
        return fs.info(link)
    except OSError as error:
        if error.errno == errno.ELOOP:  # leads to itself, however often one asks
            raise FileNotFoundError(link) from None
        raise


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
