"""A folder on disk or in a bucket, whose files appear whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem


class Folder:
    """Files under one root; names are relative to it, with `/` between steps."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.fs: fsspec.AbstractFileSystem
        self.fs, root = url_to_fs(uri)
        self.root = root.rstrip("/")

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        assert ".." not in name.split("/"), "names stay below the root"
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str, prefix: str, suffix: str) -> list[str]:
        """Names in `folder` that begin and end so, sorted; none if there is no such folder."""
        if not self.fs.exists(self.path(folder)):
            return []
        found = (path.rsplit("/", 1)[-1] for path in self.fs.ls(self.path(folder), detail=False, refresh=True))
        return sorted(f"{folder}/{name}" for name in found if name.startswith(prefix) and name.endswith(suffix))

    def read_json(self, name: str) -> Any:
        """Raises ValueError when the file is not JSON."""
        try:
            return json.loads(self.fs.cat_file(self.path(name)))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.path(name)}: not valid JSON ({error}); it was not written by MaskFoundry"
            ) from None

    def write_json(self, name: str, content: Any) -> None:
        self.write(name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def write(self, name: str, data: bytes) -> None:
        """Replace the file as a whole: one PUT in a bucket; on disk a temporary file, flushed, then renamed."""
        path = self.path(name)
        if not self.is_local:
            self.fs.pipe_file(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; False if it does. Best effort where the store has no such write."""
        path = self.path(name)
        try:
            if self.is_local:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with open(path, "xb") as file:
                    file.write(data)
            elif self.fs.exists(path):
                return False
            else:
                self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        self.fs.rm_file(self.path(name))

    def remove_temporary(self, folder: str) -> None:
        """What a killed writer left behind; readers never see these names."""
        if self.is_local:
            for path in Path(self.path(folder)).glob(".*.tmp"):
                path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
