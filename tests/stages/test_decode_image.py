import hashlib
import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, UnidentifiedImageError

from pipeline.sources.listing_schema import listing_table
from stages.allowed_places import AllowedPlaces
from stages.attempts import AttemptCounts
from stages.decode_image import DecodeImages, describe, perceptual_hash
from stages.decode_pixels import DecodedImage, DecodeSettings, decode_image
from stages.record import SCHEMA, conform

SETTINGS = DecodeSettings()


def picture(height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def decode(data: bytes) -> DecodedImage:
    found = decode_image(data, SETTINGS)
    assert found.pixels.dtype == np.uint8 and found.pixels.ndim == 3 and found.pixels.shape[2] == 3
    return found


# --- formats and modes


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}), ("BMP", {})],
)
def test_lossless_formats_give_their_pixels(kind: str, options: dict[str, Any]) -> None:
    found = decode(encoded(picture(), kind, **options))
    assert np.array_equal(found.pixels, picture())
    assert (found.mode, found.bit_depth, found.orientation, found.bands) == ("RGB", 8, 1, [0, 1, 2])


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_lossy_formats_come_close(kind: str, options: dict[str, Any]) -> None:
    found = decode(encoded(picture(), kind, **options))
    assert np.abs(found.pixels.astype(int) - picture()).mean() < 6 and found.mode == "RGB"


def test_grey() -> None:
    grey = picture()[..., 0]
    found = decode(encoded(grey, "PNG"))
    assert np.array_equal(found.pixels, np.stack([grey] * 3, -1))
    assert (found.mode, found.bit_depth, found.bands) == ("L", 8, [0])
    assert decode(encoded(grey, "JPEG")).mode == "L"


def test_alpha_is_ignored() -> None:
    alpha = np.arange(40, dtype=np.uint8)[None].repeat(30, 0)
    found = decode(encoded(np.dstack([picture(), alpha]), "PNG"))
    assert np.array_equal(found.pixels, picture()) and (found.mode, found.bands) == ("RGBA", [0, 1, 2])
    grey = picture()[..., 0]
    found = decode(encoded(np.dstack([grey, alpha]), "PNG"))
    assert np.array_equal(found.pixels[..., 1], grey) and (found.mode, found.bands) == ("LA", [0])


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(250))])
def test_palette(transparency: int | bytes | None) -> None:
    image = Image.fromarray(picture()).quantize(250)
    options = {} if transparency is None else {"transparency": transparency}
    found = decode(encoded(image, "PNG", **options))
    assert np.array_equal(found.pixels, np.array(image.convert("RGB"))) and (found.mode, found.bands) == ("P", [0])


def test_one_bit() -> None:
    black = np.random.default_rng(0).random((30, 40)) < 0.5
    found = decode(encoded(Image.fromarray(black), "PNG"))
    assert np.array_equal(found.pixels, np.dstack([black * np.uint8(255)] * 3))
    assert (found.mode, found.bit_depth) == ("1", 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    wide = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54
    found = decode(encoded(wide, kind))
    assert np.array_equal(found.pixels, np.stack([wide >> 8] * 3, -1))
    assert (found.mode, found.bit_depth, found.bands) == ("I;16", 16, [0])
    dark = decode(encoded(np.full((2, 2), 255, np.uint16), kind))
    assert not dark.pixels.any(), "sixteen bits stay sixteen bits, however dark"


def test_sixteen_bit_colour() -> None:
    wide = picture().astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)  # Pillow cannot write these
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    assert np.array_equal(decode(data).pixels, picture())


def test_thirty_two_bit_grey_has_no_defined_range() -> None:
    with pytest.raises(ValueError, match="32-bit"):
        decode(encoded(np.arange(200, dtype=np.int32).reshape(10, 20), "TIFF"))


def test_sixteen_bit_netpbm() -> None:
    found = decode(b"P5 2 1 65535\n" + bytes([0x12, 0x34, 0, 0x77]))
    assert found.pixels[0, :, 0].tolist() == [0x12, 0] and found.bit_depth == 16


def test_bits_of_a_sample_are_those_of_the_file() -> None:
    wide = np.random.default_rng(0).integers(0, 1 << 16, (5, 6, 3)).astype(np.uint16)
    ok, data = cv2.imencode(".png", wide[..., ::-1])
    assert ok
    found = decode(data.tobytes())
    assert np.array_equal(found.pixels, wide >> 8) and (found.mode, found.bit_depth) == ("RGB", 16)
    assert decode(encoded(Image.new("1", (3, 3)), "PNG")).bit_depth == 1


def test_formats_that_are_programs_are_not_opened() -> None:
    drawing = encoded(picture(), "EPS")
    with pytest.raises(UnidentifiedImageError):
        decode(drawing)


def test_cmyk_jpeg() -> None:
    image = Image.fromarray(picture()).convert("CMYK")
    found = decode(encoded(image, "JPEG", quality=95))
    assert (found.mode, found.bands) == ("CMYK", [0, 1, 2, 3])
    assert np.abs(found.pixels.astype(int) - picture()).mean() < 8


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        found = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        assert found.pixels.shape == (6, 8, 3) and (found.pixels == [255, 0, 0]).all(), kind


def test_an_image_of_one_pixel() -> None:
    for kind in ("PNG", "JPEG", "GIF"):
        found = decode(encoded(np.full((1, 1, 3), 200, np.uint8), kind))
        assert found.pixels.tolist() == [[[200, 200, 200]]]
        assert re.fullmatch("[0-9a-f]{16}", perceptual_hash(found.pixels))


# --- orientation


def stored_for(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a camera stores them: EXIF 2.3, table of «Orientation» (where row 0 and column 0 are)."""
    swapped = upright.transpose(1, 0, 2)
    return {
        1: upright,
        2: upright[:, ::-1],  # row 0 top, column 0 right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: swapped,  # left, top
        6: swapped[::-1],  # right, top
        7: swapped[::-1, ::-1],  # right, bottom
        8: swapped[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation: int, kind: str) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = decode(encoded(np.ascontiguousarray(stored_for(upright, orientation)), kind, exif=exif, **options))
    assert found.orientation == orientation
    assert found.pixels.shape == upright.shape
    assert np.abs(found.pixels.astype(int) - upright).max() <= 4


def test_orientation_of_grey_pixels_of_sixteen_bits() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.arange(6, dtype=np.uint16).reshape(2, 3) * 8192
    found = decode(encoded(wide, "TIFF", exif=exif))
    assert found.pixels[..., 0].tolist() == np.rot90(wide >> 8, -1).tolist()


def test_an_unknown_orientation_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    found = decode(encoded(picture(), "PNG", exif=exif))
    assert np.array_equal(found.pixels, picture())


def test_exif_that_is_none() -> None:
    found = decode(encoded(picture(), "JPEG", exif=b"Exif\0\0no such thing"))
    assert found.pixels.shape == (30, 40, 3) and found.orientation == 1


# --- refusals


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    data = encoded(picture(), "PNG")
    assert decode_image(data, DecodeSettings(max_pixels=1200)).pixels.shape == (30, 40, 3)
    with pytest.raises(ValueError, match=r"40×30 is above decode\.max_pixels=1199"):
        decode_image(data, DecodeSettings(max_pixels=1199))
    # a header that claims four billion pixels over no data at all
    header = b"IHDR" + struct.pack(">IIBBBBB", 65_535, 65_535, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(ValueError, match="65535×65535 is above"):
        decode_image(bomb + struct.pack(">I", 100) + b"IDAT", SETTINGS)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="floating point"):
        decode(encoded(np.ones((3, 3), np.float32), "TIFF"))


# --- perceptual hash


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_have_near_hashes(seed: int) -> None:
    image = picture(300, 400, seed)
    assert re.fullmatch("[0-9a-f]{16}", perceptual_hash(image))
    assert perceptual_hash(image) == perceptual_hash(image.copy())
    smaller = np.array(Image.fromarray(image).resize((150, 110), Image.Resampling.BICUBIC))
    jpeg = decode(encoded(image, "JPEG", quality=60)).pixels
    brighter = np.clip(image * 0.9 + 20, 0, 255).astype(np.uint8)
    assert max(distance(image, near) for near in (smaller, jpeg, brighter)) <= 6
    assert distance(image, picture(300, 400, seed + 100)) >= 16


def test_hashes_of_flat_images() -> None:
    for value in (0, 128, 255):
        assert re.fullmatch("[0-9a-f]{16}", perceptual_hash(np.full((50, 50, 3), value, np.uint8)))
    flat = [perceptual_hash(np.full(shape, 90, np.uint8)) for shape in ((50, 50, 3), (7, 300, 3), (1, 1, 3))]
    assert len(set(flat)) == 1


# --- the stage


def files(folder: Path) -> dict[str, bytes]:
    photo = encoded(picture(), "JPEG")
    return {
        "good.jpg": photo,
        "grey.png": encoded(picture(9, 7)[..., 0], "PNG"),
        "cut.jpg": photo[: len(photo) // 2],
        "cut.png": encoded(picture(), "PNG")[:300],
        "none.jpg": b"",
        "text.jpg": b"this is a letter, not an image\n" * 20,
        "header.jpg": photo[:20],
        "zeros.png": bytes(5000),
        "last.webp": encoded(picture(5, 4), "WEBP"),
    }


ANYWHERE = AllowedPlaces(named=("/",))


def batch(uris: list[str]) -> pa.Table:
    images = listing_table(len(uris), {"image_id": [uri.rsplit("/")[-1] for uri in uris], "uri": uris})
    return images.append_column("part", pa.array([3] * len(uris), pa.int32()))


def test_broken_files_become_failed_rows_and_their_neighbours_stay(tmp_path: Path) -> None:
    contents = files(tmp_path)
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    uris = [f"{tmp_path}/{name}" for name in [*contents, "missing.jpg"]] + [str(tmp_path)]
    found = DecodeImages(SETTINGS, AttemptCounts(), 60, places=ANYWHERE)(batch(uris))
    rows = found.to_pylist()
    assert found.num_rows == len(uris) and found["part"].to_pylist() == [3] * len(uris)
    good = {"good.jpg": (30, 40), "grey.png": (9, 7), "last.webp": (5, 4)}
    for row, uri in zip(rows, uris, strict=True):
        name = uri.rsplit("/")[-1]
        assert row["uri"] == uri and row["decode_seconds"] > 0
        if name in good:
            assert (row["status"], row["error"], (row["height"], row["width"])) == ("ok", None, good[name])
            pixels = np.frombuffer(row["pixels"], np.uint8).reshape(*good[name], 3)
            assert np.array_equal(pixels, decode(contents[name]).pixels)
            assert row["phash"] == perceptual_hash(pixels)
        else:
            assert row["status"] == "failed" and row["error"].startswith("decode: ")
            assert re.fullmatch(r"decode: \w+(: .+)?", row["error"]) and len(row["error"]) < 350
            assert "0x" not in row["error"] and "<_io" not in row["error"] and "\n" not in row["error"]
            assert row["pixels"] is row["width"] is row["height"] is row["phash"] is row["decode"] is None
        data = contents.get(name)
        assert row["content_sha256"] == (None if data is None else hashlib.sha256(data).hexdigest())
    errors = {row["image_id"]: row["error"] for row in rows}
    assert errors["text.jpg"] == "decode: UnidentifiedImageError: cannot identify image file"
    assert errors["missing.jpg"].startswith("decode: FileNotFoundError: ")
    assert rows[1]["decode"] == {**{"mode": "L", "bit_depth": 8, "orientation": 1, "bands": [0], "sample_range": None}}


def test_errors_do_not_change_from_run_to_run(tmp_path: Path) -> None:
    contents = files(tmp_path)
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    uris = [f"{tmp_path}/{name}" for name in contents]
    stage = DecodeImages(SETTINGS, AttemptCounts(), 60, places=ANYWHERE)
    once, again = (stage(batch(uris)).drop_columns(["decode_seconds"]) for _ in range(2))
    assert once.equals(again)


def test_the_pixel_limit_fails_the_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))
    [row] = DecodeImages(DecodeSettings(max_pixels=100), AttemptCounts(), 60, places=ANYWHERE)(
        batch([f"{tmp_path}/a.png"])
    ).to_pylist()
    assert row["error"] == "decode: TooManyPixelsError: 40×30 is above decode.max_pixels=100"
    assert row["content_sha256"] is not None


def test_the_limit_of_bytes_fails_the_row_unread(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))
    [row] = DecodeImages(DecodeSettings(max_bytes=99), AttemptCounts(), 60, places=ANYWHERE)(
        batch([f"{tmp_path}/a.png"])
    ).to_pylist()
    assert re.fullmatch(r"decode: ValueError: [\d,]+ bytes are above decode\.max_bytes=99", row["error"])
    assert row["content_sha256"] is None


def test_types_are_the_records(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))
    stage = DecodeImages(SETTINGS, AttemptCounts(), 60, places=ANYWHERE)
    found = stage(batch([f"{tmp_path}/a.png"]))
    for name in set(found.column_names) & set(SCHEMA.names):
        assert found.schema.field(name).type == SCHEMA.field(name).type, name
    for none in (batch([]), batch([f"{tmp_path}/b.png"])):
        assert stage(none).schema.equals(found.schema)
        assert conform(stage(none)).schema.equals(SCHEMA)


def test_describe() -> None:
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
    assert describe(KeyError()) == "KeyError"
    assert describe(OSError("cannot read <_io.BytesIO object at 0x7f00aa>")) == "OSError: cannot read"
    assert len(describe(ValueError("long " * 500))) < 320
