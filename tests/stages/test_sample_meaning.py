"""Files whose samples mean something else than their bytes: planes, signs, white that is zero, few bits, thumbnails."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydantic import ValidationError

from pipeline.pictures import decode as decode_again
from stages.decode_pixels import DecodeSettings, decode_image

SETTINGS = DecodeSettings()
COLOUR = cv2.resize(np.random.default_rng(3).integers(0, 256, (5, 6, 3), np.uint8), (48, 32))
GREY = COLOUR[..., 1].copy()


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def grey(data: bytes, settings: DecodeSettings = SETTINGS) -> np.ndarray:
    pixels = decode_image(data, settings).pixels
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


WIDE = COLOUR.astype(np.uint16) << 8 | 0x7F
WIDE_GREY = GREY.astype(np.uint16) << 8 | 0x7F


@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_of_sixteen_bits_interleaved_or_apart(planar: str, byteorder: str, compression: str | None) -> None:
    stored = WIDE if planar == "contig" else np.moveaxis(WIDE, 2, 0)
    data = tiff(stored, photometric="rgb", planarconfig=planar, byteorder=byteorder, compression=compression)
    found = decode_image(data, SETTINGS)
    assert np.array_equal(found.pixels, COLOUR) and (found.bit_depth, found.bands) == (16, [0, 1, 2])


def test_colours_of_eight_bits_apart() -> None:
    data = tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(decode_image(data, SETTINGS).pixels, COLOUR)


def test_white_that_is_zero() -> None:
    assert np.array_equal(grey(tiff(255 - GREY, photometric="miniswhite")), GREY)
    assert np.array_equal(grey(tiff(65535 - WIDE_GREY, photometric="miniswhite")), GREY)
    data = tiff(4095 - (GREY.astype(np.uint16) << 4), photometric="miniswhite")
    assert np.abs(grey(data, DecodeSettings(sample_range=(0, 4095))).astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_signed_samples_have_no_range_but_the_one_that_is_given(kind: type) -> None:
    samples = GREY.astype(np.int16) - 128
    with pytest.raises(ValueError, match=rf"^pixels are {np.dtype(kind)}, which have no defined range; .*sample_range"):
        decode_image(tiff(samples.astype(kind), photometric="minisblack"), SETTINGS)
    if kind is np.int16:
        data = tiff(samples, photometric="minisblack")
        assert np.array_equal(grey(data, DecodeSettings(sample_range=(-128, 127))), GREY)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_samples_of_few_bits_count_as_that_many(bits: int) -> None:
    samples = GREY.astype(np.uint16) << (bits - 8)
    found = decode_image(tiff(samples, photometric="minisblack", bitspersample=bits), SETTINGS)
    assert np.array_equal(found.pixels[..., 0], GREY) and found.bit_depth == bits


def test_twelve_bits_of_sixteen_by_a_range() -> None:
    samples = GREY.astype(np.uint16) << 4
    ranged = DecodeSettings(sample_range=(0, 4080))
    png = cv2.imencode(".png", samples)[1].tobytes()
    colour = cv2.imencode(".png", np.stack([samples, samples // 2, samples], 2))[1].tobytes()
    for data in (tiff(samples, photometric="minisblack"), png):
        assert grey(data).max() <= 15, "without a range the upper 8 of 16 bits"
        found = decode_image(data, ranged)
        assert np.array_equal(found.pixels[..., 0], GREY) and found.sample_range == (0, 4080)
    found = decode_image(colour, ranged)
    assert np.array_equal(found.pixels[..., 0], GREY)
    assert np.abs(found.pixels[..., 1].astype(int) * 2 - GREY).max() <= 2, "green is green"
    # what has 8 bits stays as it is
    plain = decode_image(tiff(COLOUR, photometric="rgb"), ranged)
    assert np.array_equal(plain.pixels, COLOUR) and plain.sample_range is None


def test_what_lies_outside_a_range_is_clipped_and_nan_is_black() -> None:
    samples = np.array([[-5, 0, 5, 10, 99, np.nan]], np.float32)
    data = tiff(samples, photometric="minisblack")
    assert grey(data, DecodeSettings(sample_range=(0, 10))).tolist() == [[0, 0, 128, 255, 255, 0]]
    with pytest.raises(ValueError, match="floating point"):
        decode_image(data, SETTINGS)


@pytest.mark.parametrize("wrong", [(5, 5), (9, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_range_goes_up(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match=r"a larger one that becomes white"):
        DecodeSettings(sample_range=wrong)


@pytest.mark.parametrize("samples", [COLOUR, WIDE, GREY])
def test_a_thumbnail_before_the_picture_is_passed_over(samples: np.ndarray) -> None:
    file = io.BytesIO()
    photometric = "rgb" if samples.ndim == 3 else "minisblack"
    with tifffile.TiffWriter(file) as writer:
        writer.write(samples[::4, ::4].copy(), photometric=photometric, subfiletype=1, metadata=None)
        writer.write(samples, photometric=photometric, metadata=None, extratags=[(274, "H", 1, 3, True)])
    found = decode_image(file.getvalue(), SETTINGS)
    expected = COLOUR if samples.ndim == 3 else np.repeat(GREY[..., None], 3, 2)
    assert np.array_equal(found.pixels, expected[::-1, ::-1]) and found.orientation == 3


def test_a_file_of_nothing_but_thumbnails_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no page is the picture itself"):
        decode_image(tiff(COLOUR, photometric="rgb", subfiletype=1), SETTINGS)


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(32, 48), (333, 500)])
def test_a_jpeg_without_its_end_marker_is_read_and_a_shorter_one_is_not(
    size: tuple[int, int], progressive: bool
) -> None:
    pixels = cv2.resize(COLOUR, size[::-1])
    data = jpeg(pixels, progressive=progressive)
    whole = decode_image(data, SETTINGS).pixels
    for end in (b"", b"\xff", b"\0" * 50):
        assert np.array_equal(decode_image(data[:-2] + end, SETTINGS).pixels, whole)
    start = data.rindex(b"\xff\xda")  # of the last scan
    for cut in {start + 20, (start + len(data)) // 2, *range(len(data) - 12, len(data) - 2)}:
        try:  # the last bits of a scan may say nothing that the pixels show
            assert np.array_equal(decode_image(data[:cut], SETTINGS).pixels, whole), cut
        except OSError as error:
            assert "truncated" in str(error)
    with pytest.raises(OSError, match="truncated"):
        decode_image(data[: len(data) // 2], SETTINGS)


def test_the_picture_is_read_again_as_the_run_read_it() -> None:
    data = tiff(GREY.astype(np.uint16) << 4, photometric="minisblack")
    found = decode_image(data, DecodeSettings(sample_range=(0, 4080)))
    row = {"height": 32, "width": 48, "decode": found.record() | {"sample_range": list(found.sample_range or ())}}
    assert np.array_equal(decode_again(row, data), found.pixels)
