"""TIFF of any number of bands, such as satellite images, of which Pillow reads at most four."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big, either byte order
_ORIENTATION = 274


@dataclass(frozen=True)
class TiffBands:
    """`pixels` (H, W, 3) uint8 as stored, not turned; `mode` names the type of a sample, such as `uint16`."""

    pixels: np.ndarray
    mode: str
    bit_depth: int
    orientation: int
    bands: list[int]


def needs_bands(data: bytes, chosen: bool) -> bool:
    """Whether an image is a TIFF of bands rather than of colours, or has more than three and some are `chosen`.

    Pillow reads bands that stand one after another as grey, and knows no mode for more than four. What tifffile cannot
    read is left to Pillow.
    """
    if data[:4] not in _MAGIC:
        return False
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            num_bands, photometric = int(page.samplesperpixel), int(page.photometric)
    except Exception:  # broken in any way
        return False
    return num_bands > 3 if chosen else num_bands > 1 and photometric == tifffile.PHOTOMETRIC.MINISBLACK


def read_bands(data: bytes, bands: Sequence[int] | None, max_pixels: int) -> TiffBands:
    """Three bands of the first page: `bands`, or the first three, or the only one as grey.

    16-bit samples are cut to their upper 8 bits. Raises ValueError for a page with more samples than an RGB image of
    `max_pixels`, for a band that it has not, and for samples that are not 8- or 16-bit unsigned.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        width, height, num_bands = int(page.imagewidth), int(page.imagelength), int(page.samplesperpixel)
        if width * height * num_bands > 3 * max_pixels:
            raise ValueError(f"{width}×{height} in {num_bands} bands is above decode.max_pixels={max_pixels}")
        if page.dtype is None or page.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels are {page.dtype}, which have no defined range; only uint8 and uint16 do")
        chosen = list(bands) if bands else list(range(3)) if num_bands >= 3 else [0]
        if max(chosen) >= num_bands:
            raise ValueError(f"decode.bands={chosen} asks for more than the file's {num_bands} bands")
        orientation = int(page.tags.valueof(_ORIENTATION, 1))
        samples = page.asarray(maxworkers=1)
        axes = page.axes
    if sorted(axes) not in (["X", "Y"], ["S", "X", "Y"]):
        raise ValueError(f"a page has the axes {axes}; only rows, columns and samples are read")
    if "S" in axes:
        samples = np.moveaxis(samples, axes.index("S"), 2)  # (H, W, bands)
    pixels = samples.reshape(height, width, num_bands)[..., chosen]
    bit_depth = 8 * pixels.itemsize
    eight = (pixels >> (bit_depth - 8)).astype(np.uint8)
    return TiffBands(
        pixels=np.ascontiguousarray(np.broadcast_to(eight, (height, width, 3))),
        mode=str(pixels.dtype.newbyteorder("=")),
        bit_depth=bit_depth,
        orientation=orientation,
        bands=chosen,
    )
