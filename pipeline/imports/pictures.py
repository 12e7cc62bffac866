"""Where the pictures of labels lie: a stranger's file names, looked for inside the folders that the user named."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.address import readings
from stages.allowed_places import AllowedPlaces
from stages.read_source import find_file, open_filesystem

_UPLOADS = "/data/"  # Label Studio's addresses of pictures that were uploaded, as /data/upload/1/…
_UPLOAD_MARK = re.compile(r"[0-9a-f]{8}-")  # before the name that such a picture had


class PictureFinder:
    """Finds pictures in `places`, folders on disk or in a bucket.

    Tools change names on the way, so a picture that is not there by its name is looked for by what other tools make of
    it, at last by its base name alone; two images never get one picture in that way.
    """

    def __init__(self, places: list[str]) -> None:
        self.places = places
        self._guessed: dict[str, str] = {}

    def find(self, picture: str) -> str:
        """The picture's URI. No address outside the places is asked for. Raises FileNotFoundError or ValueError."""
        outside = False
        for number, name in enumerate(names_of(picture)):
            for place in self.places:
                uri = name if _is_absolute(name) else f"{place}/{name}"
                if not AllowedPlaces(closed=(place,)).allows(uri):
                    outside = outside or number == 0
                elif (found := _existing(uri)) is not None:
                    return found if number == 0 else self._guess(found, picture)
        if outside:
            raise ValueError(f"file_name {picture!r} leaves its folder; name the pictures' folder with --images")
        raise FileNotFoundError(f"{picture} is not in {' or '.join(self.places)}")

    def _guess(self, found: str, picture: str) -> str:
        if self._guessed.setdefault(found, picture) != picture:
            raise ValueError(f"{picture} and {self._guessed[found]} both would be {found}; name them by their folders")
        return found


def names_of(picture: str) -> Iterator[str]:
    """The names under which a picture may lie, the one that is given first."""
    seen: set[str] = set()
    for name in _names(picture):
        if name and name not in seen:
            seen.add(name)
            yield name


def base_names(picture: str) -> list[str]:
    """The picture's name without its folders: as it is written, decoded, and without Label Studio's mark."""
    written = path_of(picture)
    bases: list[str] = []
    for name in (written, unquote(written)):
        base = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
        bases += [base, _UPLOAD_MARK.sub("", base, count=1) if _UPLOAD_MARK.match(base) else base]
    return [base for base in dict.fromkeys(bases) if base not in ("", ".", "..")]


def path_of(address: str) -> str:
    """The path in an address, without a query; of a file name the name itself."""
    if "://" not in address:
        return address
    try:
        return urlsplit(address).path
    except ValueError:  # of what no host can be
        return address


def _names(picture: str) -> Iterator[str]:
    yield picture
    if len(readings(picture)) > 1:
        return  # of an archive's member there is one name only
    path = path_of(picture)
    for name in (path, unquote(path)):
        name = name.replace("\\", "/")
        relative = name.removeprefix(_UPLOADS).lstrip("/") if "://" in picture or name.startswith(_UPLOADS) else name
        yield unicodedata.normalize("NFC", relative)
        yield unicodedata.normalize("NFD", relative)
    for base in base_names(picture):
        yield base
        yield unicodedata.normalize("NFD", base)


def _is_absolute(name: str) -> bool:
    return "://" in name or name.startswith("/")


def _existing(uri: str) -> str | None:
    file = find_file(uri)
    if file is None:
        return None
    fs, path = open_filesystem(file)
    return str(Path(path).resolve()) + uri[len(file) :] if "file" in fs.protocol else uri
