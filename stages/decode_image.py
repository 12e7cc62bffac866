"""Read and decode images: bytes to upright 8-bit RGB pixels, or a failed row that says why not."""

import hashlib
import io
import time
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import fsspec
import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from stages.record import SCHEMA, set_columns

# Our own limit below is checked before any pixel is decoded; Pillow's would warn at a number nobody chose.
Image.MAX_IMAGE_PIXELS = None

_BIT_DEPTH = {"1": 1, "I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16, "I": 32, "F": 32}
_UNUSED_BANDS = ("A", "a", "X")  # alpha, premultiplied alpha, padding


class DecodeSettings(BaseModel):
    """`max_pixels`: an image that claims more is refused unread, as it may be a decompression bomb."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: Annotated[int, Field(ge=1)] = 500_000_000


@dataclass(frozen=True)
class DecodedImage:
    """`pixels` (H, W, 3) uint8; the rest is the record's `decode` struct."""

    pixels: np.ndarray
    mode: str
    bit_depth: int
    orientation: int
    bands: list[int]


def decode_image(data: bytes, settings: DecodeSettings) -> DecodedImage:
    """The first frame of an encoded image, EXIF orientation applied, alpha ignored, 16-bit grey scaled to 8.

    Raises whatever Pillow raises on broken data, and ValueError for an image above the pixel limit or of float pixels.
    """
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if width * height > settings.max_pixels:
            raise ValueError(f"{width}×{height} is above decode.max_pixels={settings.max_pixels}")
        mode = image.mode
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
        upright = ImageOps.exif_transpose(image)
        if mode == "F":
            raise ValueError("pixels are floating point, which have no defined range")
        if mode.startswith("I"):
            wide = np.asarray(upright).astype(np.int64)
            grey = np.clip(wide >> 8 if wide.max(initial=0) > 255 or mode != "I" else wide, 0, 255).astype(np.uint8)
            pixels = np.repeat(grey[..., None], 3, axis=2)
        else:
            upright.info.pop("transparency", None)  # Pillow would warn that RGB loses it
            pixels = np.asarray(upright.convert("RGB"))
        bands = [index for index, band in enumerate(image.getbands()) if band not in _UNUSED_BANDS]
    return DecodedImage(pixels, mode, _BIT_DEPTH.get(mode, 8), orientation, bands)


def perceptual_hash(pixels: np.ndarray) -> str:
    """64-bit pHash (Zauner 2010) as 16 hex digits: the signs of the lowest 8×8 cosine coefficients of the grey image at
    32×32 against their median; near-duplicates differ in few bits."""
    grey = cv2.cvtColor(cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].reshape(-1)
    return np.packbits(low > np.median(low[1:])).tobytes().hex()


class DecodeImages:
    """Stage: rows with `image_id`, `uri`, `source_etag` gain the image's columns and `pixels` (raw RGB bytes)."""

    def __init__(self, settings: DecodeSettings) -> None:
        self.settings = settings

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._read(uri) for uri in batch["uri"].to_pylist()]
        names = ("content_sha256", "phash", "width", "height", "status", "error", "decode")
        columns = {name: pa.array([row.get(name) for row in rows], SCHEMA.field(name).type) for name in names}
        columns["pixels"] = pa.array([row.get("pixels") for row in rows], pa.large_binary())
        columns["decode_seconds"] = pa.array([row["decode_seconds"] for row in rows], pa.float64())
        return set_columns(batch, columns)

    def _read(self, uri: str) -> dict[str, Any]:
        started = time.perf_counter()
        row: dict[str, Any] = {}
        try:
            with fsspec.open(uri, "rb") as file:
                data = file.read()
            row["content_sha256"] = hashlib.sha256(data).hexdigest()
            image = decode_image(data, self.settings)
        except Exception as error:  # any file may be broken in any way: the reason is kept in its row
            row |= {"status": "failed", "error": f"decode: {describe(error)}"}
        else:
            height, width = image.pixels.shape[:2]
            row |= {
                "status": "ok",
                "width": width,
                "height": height,
                "phash": perceptual_hash(image.pixels),
                "decode": {
                    "mode": image.mode,
                    "bit_depth": image.bit_depth,
                    "orientation": image.orientation,
                    "bands": image.bands,
                },
                "pixels": image.pixels.tobytes(),
            }
        row["decode_seconds"] = time.perf_counter() - started
        return row


def describe(error: Exception) -> str:
    """One line for a row's `error`: the kind of error and its message, without the addresses of objects in it."""
    message = " ".join(str(error).split()).split(" <_io.", 1)[0][:300]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
