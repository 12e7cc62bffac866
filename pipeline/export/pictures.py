"""An image's file for an export: its own bytes where every reader sees what the run saw, else its pixels as PNG."""

import io
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from pipeline.pictures import decode, read_bytes

# What readers open alike; other formats are decoded here.
COPIED = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def picture(row: dict[str, Any]) -> tuple[bytes, str]:
    """The file's bytes and its ending. Raises ChangedPictureError, and whatever reading or decoding raises.

    An EXIF orientation, more than 8 bits or chosen bands are the run's reading of a file, which other readers may not
    share: masks would lie elsewhere. Such an image is written upright with 8 bits, as PNG.
    """
    data, how = read_bytes(row), row["decode"] or {}
    ending = PurePosixPath(row["uri"].rpartition("!")[2]).suffix.lower()
    plain = (how.get("orientation") or 1) == 1 and (how.get("bit_depth") or 8) == 8
    if plain and ending in COPIED:
        return data, ending
    sink = io.BytesIO()
    Image.fromarray(decode(row, data)).save(sink, "PNG")
    return sink.getvalue(), ".png"
