import io
from typing import Any

import numpy as np
import pytest
import tifffile

from stages.decode_pixels import DecodeSettings, decode_image


def bands(count: int, kind: type = np.uint8, height: int = 6, width: int = 9) -> np.ndarray:
    high = 256 if kind is np.uint8 else 1 << 16
    return np.random.default_rng(count).integers(0, high, (height, width, count)).astype(kind)


def encoded(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **{"photometric": "minisblack", "metadata": None, **options})
    return file.getvalue()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("count", [3, 4, 5, 12])
def test_the_first_three_bands_of_many(count: int, compression: str | None, planar: str) -> None:
    samples = bands(count)
    stored = samples if planar == "contig" else np.moveaxis(samples, 2, 0)
    data = encoded(stored, planarconfig=planar, compression=compression)
    found = decode_image(data, DecodeSettings())
    assert np.array_equal(found.pixels, samples[..., :3])
    assert (found.mode, found.bit_depth, found.bands, found.orientation) == ("uint8", 8, [0, 1, 2], 1)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_wanted_bands_of_sixteen_bits(byteorder: str) -> None:
    samples = bands(8, np.uint16)
    data = encoded(samples, planarconfig="contig", byteorder=byteorder, bigtiff=byteorder == "<")
    found = decode_image(data, DecodeSettings(bands=(7, 3, 0)))
    assert np.array_equal(found.pixels, samples[..., [7, 3, 0]] >> 8)
    assert (found.mode, found.bit_depth, found.bands) == ("uint16", 16, [7, 3, 0])


def test_wanted_bands_leave_other_images_alone() -> None:
    colour = bands(3)
    data = encoded(colour, photometric="rgb")
    assert np.array_equal(decode_image(data, DecodeSettings(bands=(5, 1, 0))).pixels, colour)
    # near infrared beside red, green and blue: four bands, so that the choice counts
    four = bands(4)
    data = encoded(four, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(decode_image(data, DecodeSettings()).pixels, four[..., :3])
    assert np.array_equal(decode_image(data, DecodeSettings(bands=(3, 0, 1))).pixels, four[..., [3, 0, 1]])


def test_the_first_page_and_two_bands() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for samples in (bands(5), bands(5)[::-1]):
            writer.write(samples, photometric="minisblack", planarconfig="contig", metadata=None)
    assert np.array_equal(decode_image(file.getvalue(), DecodeSettings()).pixels, bands(5)[..., :3])
    two = bands(2, np.uint16)
    found = decode_image(encoded(two, planarconfig="contig"), DecodeSettings())
    assert np.array_equal(found.pixels, np.repeat(two[..., :1] >> 8, 3, 2)) and found.bands == [0]


def test_orientation_turns_bands_too() -> None:
    samples = bands(5)
    data = encoded(samples, planarconfig="contig", extratags=[(274, "H", 1, 6, True)])
    found = decode_image(data, DecodeSettings())
    assert np.array_equal(found.pixels, np.rot90(samples[..., :3], -1)) and found.orientation == 6


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (
            encoded(bands(5), planarconfig="contig"),
            DecodeSettings(bands=(0, 1, 5)),
            r"\[0, 1, 5\] .* the file's 5 bands",
        ),
        (encoded(bands(5), planarconfig="contig"), DecodeSettings(max_pixels=80), "9×6 in 5 bands is above"),
        (encoded(bands(5).astype(np.float32), planarconfig="contig"), DecodeSettings(), "float32"),
    ],
)
def test_refusals(data: bytes, settings: DecodeSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(data, settings)


def test_a_cut_file_is_an_error() -> None:
    data = encoded(bands(5, height=60, width=90), planarconfig="contig", compression="deflate")
    for eighth in range(8):
        with pytest.raises(Exception, match=r"."):
            decode_image(data[: len(data) * eighth // 8], DecodeSettings())
