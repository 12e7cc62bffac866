"""A folder on disk or in a bucket, whose files appear whole or not at all."""

import json
import os
import secrets
import tempfile
import time
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
from pipeline.store.local_files import create_file, has_links, replace_file, replacing
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
        self.creates_once: bool | None = None  # whether the store makes a file only if it is absent; None: not probed

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def reads_at_once(self) -> int:
        """A store's answers take their time; on disk more than one reader only waits for the interpreter."""
        return 1 if self.is_local else 16

    def now(self) -> float:
        """Seconds since the epoch, by this machine's clock."""
        return time.time()

    def path(self, name: str) -> str:
        """Raises ValueError for a name that leads out of the folder."""
        if ".." in name.split("/"):
            raise ValueError(f"{name!r} leads out of {self.uri!r}; names stay below it")
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
        """Raises what the store raises: fsspec's own `exists` takes any error of a disk for a missing file."""
        path = self.path(name)
        try:
            self.ask(lambda: self.fs.info(path))
        except FileNotFoundError:
            return False
        return True

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

    def read_optional(self, name: str) -> bytes | None:
        """None where there is no such file, which only the store's own word for it says."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

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
            replace_file(Path(path), data)
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror})") from error

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """`write` for a file that memory does not hold: it appears when the block ends without an error."""
        path = self.path(name)
        if self.is_local:
            try:
                with replacing(Path(path)) as file:
                    yield file
            except OSError as error:
                raise StoreError(f"{path} cannot be written ({error.strerror})") from error
            return
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            self.ask(lambda: self.fs.put_file(file.name, path))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; False if it does. After a lost answer that is the file itself, so that
        one who must know puts something of its own into `data`. Best effort where `probe_create` says so."""
        path = self.path(name)
        if self.creates_once is not True and not self.is_local and self.exists(name):
            return False
        try:
            if self.is_local:
                create_file(Path(path), data)
            else:
                self.ask(lambda: self.fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return False
        except OSError as error:
            raise error if not self.is_local else StoreError(f"{path} cannot be written ({error.strerror})") from error
        # without the store's help the last one of several wins
        return self.is_local or self.creates_once is True or self.read_optional(name) == data

    def probe_create(self, name: str) -> bool:
        """Whether of several writers that `create` one file at a time exactly one succeeds: on disk where there are
        hard links, in a bucket where the store has conditional writes. `name` is written for it, and removed."""
        if self.creates_once is None:
            path = self.path(f"{name}-{secrets.token_hex(8)}")
            try:
                self.creates_once = has_links(Path(path)) if self.is_local else self._refuses_second(path)
            except OSError as error:
                raise StoreError(f"{path} cannot be written ({error.strerror or error})") from error
            finally:
                with suppress(OSError):
                    self.fs.rm_file(path)
        return self.creates_once

    def _refuses_second(self, path: str) -> bool:
        self.ask(lambda: self.fs.pipe_file(path, b"probe"))
        try:
            self.ask(lambda: self.fs.pipe_file(path, b"again", mode="create"))
        except FileExistsError:
            return True
        except StoreError:  # it knows no such write
            return False
        return False

    def move(self, source: str, target: str) -> None:
        """No matter whether `source` is there; a reader finds it under one name or the other."""
        start, end = self.path(source), self.path(target)
        with suppress(FileNotFoundError):
            if self.is_local:
                os.makedirs(os.path.dirname(end), exist_ok=True)
                os.replace(start, end)
            else:
                self.ask(lambda: self.fs.cp_file(start, end))
                self.ask(lambda: self.fs.rm_file(start))

    def remove_folder(self, name: str) -> None:
        """With all that it holds; no matter whether it is there."""
        path = self.path(name)
        with suppress(FileNotFoundError):
            self.ask(lambda: self.fs.rm(path, recursive=True))

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
