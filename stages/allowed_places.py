"""Where pictures may be read: rows and manifests that strangers wrote may name any file and any address."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from stages.address import readings


class ForbiddenPlaceError(ValueError):
    """A URI that leads out of the places that may be read; nothing was asked there."""


@dataclass(frozen=True)
class AllowedPlaces:
    """Folders, files and prefixes of any store, below which pictures may be read.

    Below `named` ones, which the user chose, links on disk count as what they lead to. `closed` ones were filled by
    somebody else: what lies in them may not lead out by a link.
    """

    named: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()

    def allows(self, uri: str | None) -> bool:
        """Whether `check` lets a URI pass."""
        try:
            self.check(uri)
        except ForbiddenPlaceError:
            return False
        return True

    def check(self, uri: str | None) -> None:
        """Raises ForbiddenPlaceError for a URI that is not below one of the places, without asking any store."""
        if not all(self._allows_file(address.file) for address in readings(uri or "")):
            raise ForbiddenPlaceError(
                f"{uri} is outside the dataset and its input, so it was not read; add its folder to `allow` to read it"
            )

    def _allows_file(self, file: str) -> bool:
        kind, path = _locate(file)
        named, closed = (_roots(kind, places) for places in (self.named, self.closed))
        if issubclass(kind, LocalFileSystem):
            return _allows_local(path, named, closed)
        upward = ".." in unquote(path).split("/")
        return not upward and any(_is_below(path, root) for root in (*named, *closed))


NOWHERE = AllowedPlaces()


def _locate(uri: str) -> tuple[type[Any], str]:
    """The class of a URI's filesystem, and the path in it. Raises ForbiddenPlaceError where there is no such class."""
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    try:
        kind = fsspec.get_filesystem_class(protocol)
        return kind, str(kind._strip_protocol(uri))
    except (ValueError, ImportError) as error:
        raise ForbiddenPlaceError(f"{uri} names a store that cannot be read ({error})") from None


def _roots(kind: type[Any], places: tuple[str, ...]) -> list[str]:
    """The paths of those places that lie in a store of this kind."""
    located = []
    for place in places:
        with suppress(ForbiddenPlaceError):  # one that cannot be read allows nothing
            located.append(_locate(place))
    return [path for other, path in located if other is kind]


def _allows_local(path: str, named: list[str], closed: list[str]) -> bool:
    real = Path(path).resolve()
    if any(real.is_relative_to(Path(root).resolve()) for root in (*named, *closed)):
        return True
    whole = os.path.abspath(path)
    if ".." in path.split("/") or any(_is_below(whole, os.path.abspath(root)) for root in closed):
        return False
    return any(_is_below(whole, os.path.abspath(root)) for root in named)


def _is_below(path: str, root: str) -> bool:
    """By the steps of the paths alone; a member lies below its archive."""
    steps = root.rstrip("/")
    return path == steps or path.startswith((f"{steps}/", f"{steps}!"))
