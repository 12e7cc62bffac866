"""Decode one encoded image to upright 8-bit RGB pixels, by one contract whatever the format."""

import io
import warnings
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import ExifTags, Image
from pydantic import BaseModel, ConfigDict, Field

from stages.tiff_bands import needs_bands, read_bands

# Our own limit below is checked before any pixel is decoded; Pillow's would warn at a number nobody chose.
Image.MAX_IMAGE_PIXELS = None
Image.init()  # Pillow knows the names below only once every format is loaded

# What a listing takes for images. Others that Pillow knows are left out, above all EPS, which starts an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "AVIF")

_UNUSED_BANDS = ("A", "a", "X")  # alpha, premultiplied alpha, padding
_UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}


class DecodeSettings(BaseModel):
    """`max_pixels`: an image that claims more is refused unread, as it may be a decompression bomb. `bands`: which
    bands (from 0) of a TIFF with more than three become red, green and blue; the first three by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: Annotated[int, Field(ge=1)] = 500_000_000
    bands: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None


@dataclass(frozen=True)
class DecodedImage:
    """`pixels` (H, W, 3) uint8; the rest is the record's `decode` struct: Pillow's mode, or the type of a band; bits of
    a sample in the file; the EXIF orientation that was applied; the file's bands that were used."""

    pixels: np.ndarray
    mode: str
    bit_depth: int
    orientation: int
    bands: list[int]


def decode_image(data: bytes, settings: DecodeSettings) -> DecodedImage:
    """The first frame of an encoded image, upright.

    EXIF orientation is applied, alpha ignored, grey repeated, a palette looked up, CMYK converted without a colour
    profile (inverted where Adobe's marker says so), 16 bits cut to their upper 8. An EXIF block that cannot be read
    counts as none. Raises whatever Pillow and tifffile raise on broken data, and ValueError for an image above the
    pixel limit, or of float or 32-bit pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is odd about a file that can be read all the same
        if needs_bands(data, chosen=settings.bands is not None):
            return _decode_bands(data, settings)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _decode(image, data, settings)


def _decode(image: Image.Image, data: bytes, settings: DecodeSettings) -> DecodedImage:
    width, height = image.size
    if width * height > settings.max_pixels:
        raise ValueError(f"{width}×{height} is above decode.max_pixels={settings.max_pixels}")
    mode, bit_depth = image.mode, _bit_depth(image, data)
    if mode == "F" or (mode == "I" and bit_depth == 32):
        raise ValueError(f"pixels are {'floating point' if mode == 'F' else '32-bit'}, which have no defined range")
    bands = [index for index, band in enumerate(image.getbands()) if band not in _UNUSED_BANDS]
    orientation = _orientation(image)
    image.load()
    upright = turn_upright(image, _orientation(image))  # asked again: Pillow turns TIFF itself as it loads
    if mode.startswith("I"):
        grey = (np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        pixels = np.repeat(grey[..., None], 3, axis=2)
    else:
        upright.info.pop("transparency", None)
        pixels = np.asarray((upright.convert("RGBA") if mode == "RGBa" else upright).convert("RGB"))
    return DecodedImage(pixels, mode, bit_depth, orientation, bands)


def _decode_bands(data: bytes, settings: DecodeSettings) -> DecodedImage:
    """A TIFF of bands, or of which certain bands are wanted."""
    found = read_bands(data, settings.bands, settings.max_pixels)
    upright = turn_upright(Image.fromarray(found.pixels), found.orientation)
    return DecodedImage(np.asarray(upright), found.mode, found.bit_depth, found.orientation, found.bands)


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """`image` as a viewer shows it; `orientation` is EXIF's 1..8."""
    for method in _UPRIGHT.get(orientation, ()):
        image = image.transpose(method)
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a block of anything at all, which says nothing about the pixels
        return 1
    return value if value in _UPRIGHT else 1


def _bit_depth(image: Image.Image, data: bytes) -> int:
    """Bits of a sample in the file; Pillow's mode alone hides those that it cuts down to 8 itself."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]
    if image.format == "PPM" and image.mode == "I":
        return 16
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
