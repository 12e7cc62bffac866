"""Which image of a dataset a stranger's picture is, where a tool has lost the id that an export gave it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.dataset import Dataset
from pipeline.export.records import stem
from pipeline.imports.labels import ImportedImage
from pipeline.imports.pictures import PictureFinder, base_names
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.decode_image import perceptual_hash
from stages.decode_pixels import DecodeSettings, decode_image
from stages.read_source import read_source

BY_EXPORT = "matched: image by the name that an export gave it"
BY_CONTENT = "matched: image by its picture's content"
BY_NAME = "matched: image by its file's name"
MAX_BITS = 4  # of perceptual hashes that differ between a picture and itself, encoded anew
_COLUMNS = ["image_id", "uri", "content_sha256", "phash", "width", "height", "status"]


@dataclass(frozen=True)
class Match:
    """The image of the dataset, and the reason to think so."""

    image_id: str
    reason: str


class HeldImages:
    """The images that a dataset shows its readers, and those that were dropped from it, by all that tells them."""

    def __init__(self, dataset: Dataset, dropped: Iterable[str]) -> None:
        rows: dict[str, dict[str, Any]] = {}
        for part in dataset.parts():  # newer rounds come last
            for row in Round(Folder(dataset.uri), part.round).read_file(part.file, _COLUMNS).to_pylist():
                rows[row["image_id"]] = row
        self._rows = {image_id: row for image_id, row in rows.items() if row["status"] == "ok"}
        self._by_stem = {stem(image_id): image_id for image_id in (*self._rows, *dropped)}
        self._by_content: dict[str, str] = {}
        self._by_name: dict[str, str | None] = {}  # None for a name of several
        for image_id, row in self._rows.items():
            self._by_content.setdefault(row.get("content_sha256") or "", image_id)
            for name in {*base_names(image_id), *base_names(row["uri"] or "")}:
                self._by_name[name] = image_id if self._by_name.get(name, image_id) == image_id else None

    def match(self, image: ImportedImage, finder: PictureFinder) -> Match | None:
        """The image that the labels' picture is: the name of its export says so, or its bytes; or its name, if no other
        image has that and the pictures are as large and look alike, as far as there is one to look at."""
        names = base_names(image.picture)
        for name in names:
            if (image_id := self._by_stem.get(PurePosixPath(name).stem)) is not None:
                return Match(image_id, BY_EXPORT)
        data = _picture(image, finder)
        if data is not None and (image_id := self._by_content.get(hashlib.sha256(data).hexdigest())) is not None:
            return Match(image_id, BY_CONTENT)
        for name in names:
            image_id = self._by_name.get(name)
            if image_id is not None and self._is_alike(image, data, self._rows[image_id]):
                return Match(image_id, BY_NAME)
        return None

    @staticmethod
    def _is_alike(image: ImportedImage, data: bytes | None, row: dict[str, Any]) -> bool:
        size = (row["height"], row["width"])
        if image.height is not None and (image.height, image.width) not in (size, size[::-1]):
            return False
        if data is None or row.get("phash") is None:
            return True
        try:
            found = perceptual_hash(decode_image(data, DecodeSettings()).pixels)
        except Exception:  # a picture may be broken in any way: its labels then fail with the reason
            return False
        return (int(found, 16) ^ int(row["phash"], 16)).bit_count() <= MAX_BITS


def _picture(image: ImportedImage, finder: PictureFinder) -> bytes | None:
    if image.data is not None:
        return image.data
    try:
        return read_source(finder.find(image.picture), None, None)
    except Exception:  # labels may name anything: an image that is new then fails with the reason
        return None
