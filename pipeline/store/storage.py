"""A folder on disk or in a bucket, whose files appear whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StoreError
from pipeline.json_text import json_text
from pipeline.sources.credentials import refuse_credentials
from stages.retry import FINAL_ERRORS, NUM_ATTEMPTS, retried

Result = TypeVar("Result")


class Folder:
    """Files under one root; names are relative to it, with `/` between steps."""

    def __init__(self, uri: str) -> None:
        refuse_credentials("dataset or output", uri)
        self.uri = uri
        self.fs: fsspec.AbstractFileSystem
        # what other processes write meanwhile must be seen
        self.fs, root = url_to_fs(uri, use_listings_cache=False)
        self.root = root.rstrip("/")
        self._is_down = False

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        assert ".." not in name.split("/"), "names stay below the root"
        return f"{self.root}/{name}"

    def ask(self, action: Callable[[], Result]) -> Result:
        """What `action` on the files returns; a store that fails is asked again, and at last gives a StoreError. It
        must bear being done twice, as an answer may be lost after the deed."""
        if self.is_local:
            return action()
        try:
            # one that has been given up is not waited for again, so that a run ends soon
            result = retried(action, 1 if self._is_down else NUM_ATTEMPTS)
        except FINAL_ERRORS:
            raise
        except Exception as error:  # each store has errors of its own kinds
            self._is_down = True
            raise StoreError(f"{self.uri}: the store does not answer as it should ({error})") from error
        self._is_down = False
        return result

    def exists(self, name: str) -> bool:
        return bool(self.ask(lambda: self.fs.exists(self.path(name))))

    def names(self, folder: str, prefix: str, suffix: str) -> list[str]:
        """Names in `folder` (the root where it is empty) that begin and end so, sorted; none if there is no such
        folder."""
        path, start = (self.path(folder), f"{folder}/") if folder else (self.root, "")
        try:
            paths = self.ask(lambda: self.fs.ls(path, detail=False, refresh=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (one.rstrip("/").rsplit("/", 1)[-1] for one in paths)
        return sorted(start + name for name in found if name.startswith(prefix) and name.endswith(suffix))

    def read(self, name: str) -> bytes:
        return bytes(self.ask(lambda: self.fs.cat_file(self.path(name))))

    def read_json(self, name: str) -> Any:
        """Raises ValueError when the file is not JSON."""
        data = self.read(name)
        try:
            return json.loads(data)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.path(name)}: not valid JSON ({error}); it was not written by MaskFoundry"
            ) from None

    def write_json(self, name: str, content: Any) -> None:
        self.write(name, to_json(content))

    def write(self, name: str, data: bytes) -> None:
        """Replace the file as a whole: one PUT in a bucket; on disk a temporary file, flushed, then renamed.

        Raises StoreError when that fails; the file is then what it was.
        """
        path = self.path(name)
        if not self.is_local:
            self.ask(lambda: self.fs.pipe_file(path, data))
            return
        try:
            _replace(Path(path), data)
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror})") from error

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """`write` for a file that memory does not hold: it appears when the block ends without an error."""
        path = self.path(name)
        if self.is_local:
            try:
                with _replacing(Path(path)) as file:
                    yield file
            except OSError as error:
                raise StoreError(f"{path} cannot be written ({error.strerror})") from error
            return
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            self.ask(lambda: self.fs.put_file(file.name, path))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; False if it does. Best effort where the store has no such write."""
        path = self.path(name)
        try:
            if self.is_local:
                _create(Path(path), data)
            elif self.exists(name):
                return False
            else:
                self.ask(lambda: self.fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """No matter whether it is there."""
        with suppress(FileNotFoundError):
            self.ask(lambda: self.fs.rm_file(self.path(name)))

    def remove_temporary(self, folder: str, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """What a killed writer left behind, of names that are `wanted`; readers never see these names."""
        if self.is_local:
            for path in Path(self.path(folder)).glob(".*.tmp"):
                if wanted(path.name):
                    path.unlink(missing_ok=True)


def to_json(content: Any) -> bytes:
    return (json_text(content, indent=2, ensure_ascii=False) + "\n").encode()


def split_file(path: str) -> tuple[Folder, str]:
    """The folder of a file at a path or URI, and its name. Raises ValueError for a folder."""
    parent, mark, name = path.rpartition("/")
    if not name:
        raise ValueError(f"--output: {path!r} is a folder; name a file in it")
    return Folder(parent or ("/" if mark else ".")), name


def _replace(target: Path, data: bytes) -> None:
    with _replacing(target) as file:
        file.write(data)


def _create(target: Path, data: bytes) -> None:
    with _replacing(target, _take_name) as file:
        file.write(data)


def _take_name(temporary: str, target: Path) -> None:
    """Raises FileExistsError if the name is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: for a moment readers meet an empty file
        with open(target, "xb"):
            os.replace(temporary, target)


@contextmanager
def _replacing(target: Path, put: Callable[[str, Path], None] = os.replace) -> Iterator[IO[bytes]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        put(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # once, as two threads that read it at a time would leave it changed
