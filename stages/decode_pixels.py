"""Decode one encoded image to upright 8-bit RGB pixels, by one contract whatever the format."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from PIL import ExifTags, Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from stages.read_source import MAX_BYTES
from stages.sample_range import SampleRange, scaled
from stages.tiff_bands import read_bands, tiff_layout

# Our own limit below is checked before any pixel is decoded; Pillow's would warn at a number nobody chose.
Image.MAX_IMAGE_PIXELS = None
Image.init()  # Pillow knows the names below only once every format is loaded

# What a listing takes for images. Others that Pillow knows are left out, above all EPS, which starts an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "AVIF")

_END_MARKER = b"\xff\xd9"  # of a JPEG
_FILLERS = (b"", b"\x55", b"\xaa", b"\xfe")  # bits that a cut scan would be decoded from
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
    """`max_pixels`, `max_bytes`: an image that claims more is refused unread, as it may be a decompression bomb; the
    default is what the largest cameras make (200 million pixels), and takes up to 3 GB while it is decoded. `bands`:
    which bands (from 0) of a TIFF with more than three become red, green and blue; the first three by default.
    `sample_range`: which values of samples of more than 8 bits become 0 and 255, such as (0, 4095) for 12 bits in 16;
    by default 16 bits are cut to their upper 8."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: Annotated[int, Field(ge=1)] = 200_000_000
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES
    bands: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    sample_range: SampleRange | None = None

    @field_validator("sample_range")
    @classmethod
    def _ascends(cls, value: SampleRange | None) -> SampleRange | None:
        if value is not None and not (np.isfinite(value).all() and value[0] < value[1]):
            raise ValueError("give the value that becomes black and a larger one that becomes white, such as [0, 4095]")
        return value


class TooManyPixelsError(ValueError):
    """An image claims more pixels than `decode.max_pixels`."""


@dataclass(frozen=True)
class DecodedImage:
    """`pixels` (H, W, 3) uint8; the rest is the record's `decode` struct: Pillow's mode, or the type of a band; bits of
    a sample in the file; the EXIF orientation that was applied; the file's bands that were used; the range of samples
    that was scaled to 8 bits, where one was asked for and there are more."""

    pixels: np.ndarray
    mode: str
    bit_depth: int
    orientation: int
    bands: list[int]
    sample_range: SampleRange | None = None

    def record(self) -> dict[str, Any]:
        """The struct `decode` of a row."""
        return {name: value for name, value in vars(self).items() if name != "pixels"}


def decode_image(data: bytes, settings: DecodeSettings) -> DecodedImage:
    """The first frame of an encoded image (of a TIFF the first page that is no thumbnail), upright.

    EXIF orientation is applied, alpha ignored, grey repeated, a palette looked up, CMYK converted without a colour
    profile (inverted where Adobe's marker says so), 16 bits cut to their upper 8 or scaled from
    `settings.sample_range`. An EXIF block that cannot be read counts as none. Raises whatever Pillow and tifffile raise
    on broken data, and ValueError for an image above the pixel limit, or without a range of signed, float or 32-bit
    pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is odd about a file that can be read all the same
        layout = tiff_layout(data, settings.bands is not None, settings.sample_range is not None)
        if layout is not None and layout.needs_bands:
            return _decode_bands(data, layout.page, settings)
        page = 0 if layout is None else layout.page
        try:
            return _open(data, page, settings)
        except OSError:
            completed = _without_end_marker(data, settings)
            if completed is None:
                raise
            return completed


def _open(data: bytes, page: int, settings: DecodeSettings) -> DecodedImage:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if page:
            image.seek(page)
        return _decode(image, data, settings)


def _without_end_marker(data: bytes, settings: DecodeSettings) -> DecodedImage | None:
    """A JPEG that lacks nothing but its last two bytes, whose pixels are the same whatever is put in their place. None
    for any other that is cut short."""
    if not data.startswith(b"\xff\xd8\xff") or data.rstrip(b"\0").endswith(_END_MARKER):
        return None
    scans = data.rstrip(b"\xff")
    try:
        found, *others = (_open(scans + filler * 64 + _END_MARKER, 0, settings) for filler in _FILLERS)
    except OSError:
        return None
    return found if all(np.array_equal(found.pixels, other.pixels) for other in others) else None


def _decode(image: Image.Image, data: bytes, settings: DecodeSettings) -> DecodedImage:
    width, height = image.size
    if width * height > settings.max_pixels:
        raise TooManyPixelsError(f"{width}×{height} is above decode.max_pixels={settings.max_pixels}")
    mode, bit_depth = image.mode, _bit_depth(image, data)
    if mode == "F" or (mode == "I" and bit_depth == 32):
        raise ValueError(f"pixels are {'floating point' if mode == 'F' else '32-bit'}, which have no defined range")
    bands = [index for index, band in enumerate(image.getbands()) if band not in _UNUSED_BANDS]
    orientation = _orientation(image)
    sample_range = (
        settings.sample_range if mode.startswith("I") or (image.format == "PNG" and bit_depth == 16) else None
    )
    image.load()
    if sample_range is not None and not mode.startswith("I"):  # of which Pillow keeps 8 bits
        upright = turn_upright(Image.fromarray(_sixteen_bit_png(data, sample_range)), orientation)
        return DecodedImage(np.asarray(upright), mode, bit_depth, orientation, bands, sample_range)
    upright = turn_upright(image, _orientation(image))  # asked again: Pillow turns TIFF itself as it loads
    if mode.startswith("I"):
        grey = scaled(np.asarray(upright).astype(np.int64), 16, sample_range)
        pixels = np.repeat(grey[..., None], 3, axis=2)
    else:
        upright.info.pop("transparency", None)
        pixels = np.asarray((upright.convert("RGBA") if mode == "RGBa" else upright).convert("RGB"))
    return DecodedImage(pixels, mode, bit_depth, orientation, bands, sample_range)


def _sixteen_bit_png(data: bytes, sample_range: SampleRange) -> np.ndarray:
    """(H, W, 3) uint8, not turned, of a colour or grey PNG with or without alpha."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("the PNG's samples of 16 bits cannot be read")
    return scaled(samples[..., 2::-1], 16, sample_range)


def _decode_bands(data: bytes, page: int, settings: DecodeSettings) -> DecodedImage:
    """A TIFF of bands, or of which certain bands are wanted, or whose samples Pillow misunderstands."""
    found = read_bands(data, page, settings.bands, settings.sample_range, settings.max_pixels)
    upright = turn_upright(Image.fromarray(found.pixels), found.orientation)
    return DecodedImage(
        np.asarray(upright), found.mode, found.bit_depth, found.orientation, found.bands, found.sample_range
    )


def read_header(path: Path) -> tuple[tuple[int, int], int]:
    """The (height, width) of a picture as a viewer shows it, and its EXIF orientation, without decoding a pixel.

    Raises whatever Pillow raises, and ValueError for a TIFF, of which only decoding tells what page is the picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "TIFF":
                raise ValueError("a TIFF's size is that of the page which is decoded")
            orientation = _orientation(image)
            size = image.size if orientation in (5, 6, 7, 8) else image.size[::-1]
            return size, orientation


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
