"""An image's file for an export: its own bytes where every reader sees what the run saw, else its pixels encoded."""

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipeline.pictures import decode, read_bytes
from stages.address import suffix_of
from stages.allowed_places import AllowedPlaces

# What readers open alike; other formats are decoded here.
COPIED = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
JPEG_QUALITY = 95


def picture(row: dict[str, Any], places: AllowedPlaces, size: tuple[int, int] | None = None) -> tuple[bytes, str]:
    """The file's bytes and its ending; where `size` (height, width) is given and another than the row's, in that size.
    Raises ForbiddenPlaceError, ChangedPictureError, and whatever reading or decoding raises: what is no picture of the
    row's size is not given out, whatever its name.

    An EXIF orientation, more than 8 bits or chosen bands are the run's reading of a file, which other readers may not
    share: masks would lie elsewhere. Such an image is written upright with 8 bits, as PNG; a resized one as JPEG where
    it was one, else as PNG.
    """
    data, how = read_bytes(row, places), row["decode"] or {}
    pixels = decode(row, data)
    ending = suffix_of(row["uri"])
    plain = (how.get("orientation") or 1) == 1 and (how.get("bit_depth") or 8) == 8
    resized = size is not None and size != (row["height"], row["width"])
    if plain and ending in COPIED and not resized:
        return data, ending
    if resized and size is not None:
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
        if ending in (".jpg", ".jpeg"):
            return _encoded(pixels, "JPEG", quality=JPEG_QUALITY), ".jpg"
    return _encoded(pixels, "PNG"), ".png"


def _encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()
