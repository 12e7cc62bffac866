"""TIFF as its tags describe it: bands, sample types and pages that Pillow does not know, or reads as something else."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.sample_range import SampleRange, scaled

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big, either byte order
_ORIENTATION = 274
_REDUCED_OR_MASK = 1 | 4  # of a page's subfile type: a smaller version of another page, a transparency mask
_MAX_PAGES = 64  # that are looked through for the picture itself


@dataclass(frozen=True)
class TiffBands:
    """`pixels` (H, W, 3) uint8 as stored, not turned; `mode` names the type of a sample, such as `uint16`."""

    pixels: np.ndarray
    mode: str
    bit_depth: int
    orientation: int
    bands: list[int]
    sample_range: SampleRange | None


@dataclass(frozen=True)
class TiffLayout:
    """What a TIFF says of its picture: the number of its `page`, and whether that must be read by its tags
    (`read_bands`), as Pillow would make something else of it."""

    page: int
    needs_bands: bool


def tiff_layout(data: bytes, chosen: bool, ranged: bool) -> TiffLayout | None:
    """None for what is no TIFF, or one that tifffile cannot read, which is left to Pillow. The picture is the first
    page that is not a smaller version of another one, such as a thumbnail.

    Pillow reads bands that stand one after another as grey, knows no mode for more than four, and takes planes of more
    than 8 bits, signed samples, white that is zero in more than 8 bits, and 12 bits of 16 for what they are not.
    `chosen`: some bands of more than three are wanted; `ranged`: so is a range of samples of more than 8 bits.
    Raises ValueError where every page is a smaller version of something else.
    """
    if data[:4] not in _MAGIC:
        return None
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            number, page = _picture(file)
            if page is None:
                raise _NoPictureError
            return TiffLayout(number, _needs_bands(page, chosen, ranged))
    except _NoPictureError:
        raise ValueError("no page is the picture itself: each says that it is a smaller version, or a mask") from None
    except Exception:  # broken in any way
        return None


def read_bands(
    data: bytes, number: int, bands: tuple[int, int, int] | None, sample_range: SampleRange | None, max_pixels: int
) -> TiffBands:
    """Three bands of page `number`: `bands`, or the first three, or the only one as grey.

    Samples of more than 8 bits are cut to their upper 8, or scaled from `sample_range`. Raises ValueError for a page
    with more samples than an RGB image of `max_pixels`, for a band that it has not, and without `sample_range` for
    samples that are not unsigned of at most 16 bits.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[number]
        width, height, num_bands = int(page.imagewidth), int(page.imagelength), int(page.samplesperpixel)
        if max(width * height * num_bands, int(np.prod(page.shape, dtype=object))) > 3 * max_pixels:
            raise ValueError(f"{width}×{height} in {num_bands} bands is above decode.max_pixels={max_pixels}")
        kind, bit_depth = page.dtype, int(page.bitspersample)
        if kind is None or kind.kind not in "uif" or (sample_range is None and (kind.kind != "u" or bit_depth > 16)):
            raise ValueError(
                f"pixels are {kind}, which have no defined range; only uint8 and uint16 do (set decode.sample_range)"
            )
        chosen = list(bands) if bands else list(range(3)) if num_bands >= 3 else [0]
        if max(chosen) >= num_bands:
            raise ValueError(f"decode.bands={chosen} asks for more than the file's {num_bands} bands")
        orientation = int(page.tags.valueof(_ORIENTATION, 1))
        white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        samples = page.asarray(maxworkers=1)
        axes = page.axes
    if sorted(axes) not in (["X", "Y"], ["S", "X", "Y"]):
        raise ValueError(f"a page has the axes {axes}; only rows, columns and samples are read")
    if "S" in axes:
        samples = np.moveaxis(samples, axes.index("S"), 2)  # (H, W, bands)
    samples = samples.reshape(height, width, num_bands)[..., chosen]
    ranged = sample_range if bit_depth > 8 else None
    eight = scaled(samples, bit_depth, ranged)
    return TiffBands(
        pixels=np.ascontiguousarray(np.broadcast_to(255 - eight if white_is_zero else eight, (height, width, 3))),
        mode=str(samples.dtype.newbyteorder("=")),
        bit_depth=bit_depth,
        orientation=orientation,
        bands=chosen,
        sample_range=ranged,
    )


class _NoPictureError(Exception):
    pass


def _picture(file: Any) -> tuple[int, Any]:
    for number, page in enumerate(file.pages):
        if number >= _MAX_PAGES:
            break
        if not int(page.aspage().subfiletype) & _REDUCED_OR_MASK:
            return number, page.aspage()
    return 0, None


def _needs_bands(page: Any, chosen: bool, ranged: bool) -> bool:
    import tifffile

    num_bands, bits = int(page.samplesperpixel), int(page.bitspersample)
    known = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
    if page.photometric not in known:
        return False
    if num_bands > 1 and (page.photometric == tifffile.PHOTOMETRIC.MINISBLACK or (chosen and num_bands > 3)):
        return True
    signed = bits <= 16 and page.sampleformat == tifffile.SAMPLEFORMAT.INT
    apart = bits > 8 and num_bands > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    inverted = 8 < bits <= 16 and page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    return signed or apart or inverted or 8 < bits < 16 or (ranged and bits > 8)
