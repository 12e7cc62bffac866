"""An image row's picture, read again as the run read it."""

import hashlib
from typing import Any

import numpy as np

from stages.allowed_places import AllowedPlaces
from stages.decode_pixels import DecodeSettings, decode_image
from stages.read_source import read_source

MAX_PIXELS = 1_000_000_000  # that are decoded because a row, which a stranger may have written, says so


class ChangedPictureError(ValueError):
    """The file at a row's URI is no longer the one that was annotated."""


def read_bytes(row: dict[str, Any], places: AllowedPlaces) -> bytes:
    """The file, from one of the places that may be read.

    Raises ForbiddenPlaceError, before anything is asked, for a URI outside of them, ChangedPictureError for another
    content (where the row tells its hash), else what reading it raises.
    """
    places.check(row["uri"])
    data = read_source(row["uri"], None, None)
    if row["content_sha256"] is not None and hashlib.sha256(data).hexdigest() != row["content_sha256"]:
        raise ChangedPictureError("the picture has changed since it was annotated")
    return data


def decode(row: dict[str, Any], data: bytes, max_pixels: int | None = None) -> np.ndarray:
    """Its pixels (H, W, 3) uint8 RGB, of the bands and in the range of samples that the run chose.

    Raises ChangedPictureError for another size than the row's, else whatever decoding raises.
    """
    decode = row["decode"] or {}
    bands = decode.get("bands") or []
    # a run may have been allowed more than others are; its rows tell, up to what no run over real pictures needs
    annotated = max(DecodeSettings().max_pixels, min(row["height"] * row["width"], MAX_PIXELS))
    settings: dict[str, Any] = {"max_pixels": annotated if max_pixels is None else max_pixels}
    if len(bands) == 3 and bands != [0, 1, 2]:
        settings["bands"] = tuple(bands)
    if decode.get("sample_range"):
        settings["sample_range"] = tuple(decode["sample_range"])
    pixels = decode_image(data, DecodeSettings(**settings)).pixels
    if pixels.shape[:2] != (row["height"], row["width"]):
        raise ChangedPictureError("the picture has another size than when it was annotated")
    return pixels
