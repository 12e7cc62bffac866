"""Files that nobody checked: a run takes them all, annotates the good ones and says of each bad one what is wrong."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

HEIGHT, WIDTH = 48, 64


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    coarse = np.random.default_rng(7).integers(0, 256, (5, 6, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def flipped(data: bytes, seed: int) -> bytes:
    """Three bits turned over, anywhere."""
    changed = bytearray(data)
    for bit in np.random.default_rng(seed).integers(0, 8 * len(data), 3):
        changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (header, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def adobe_cmyk() -> bytes:
    """Pillow writes CMYK as Adobe does: inverted, with the marker that says so."""
    data = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe\0" in data
    return data


def huge_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 60_000
    return encoded(picture(), "JPEG", exif=exif)


def sixteen_bit_colour() -> bytes:
    ok, data = cv2.imencode(".png", picture().astype(np.uint16) * 257)
    assert ok
    return data.tobytes()


def good_files() -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Name → bytes and (height, width)."""
    size = (HEIGHT, WIDTH)
    jpeg, png = encoded(picture(), "JPEG", quality=95), encoded(picture(), "PNG")
    other = Image.fromarray(picture()[::-1])
    return {
        "1x1.png": (encoded(picture(1, 1), "PNG"), (1, 1)),
        "30000x2.png": (encoded(picture(2, 30_000), "PNG"), (2, 30_000)),
        "2x30000.png": (encoded(picture(30_000, 2), "PNG"), (30_000, 2)),
        "exif.jpg": (huge_exif(), (WIDTH, HEIGHT)),
        "cmyk.jpg": (adobe_cmyk(), size),
        "grey16.png": (encoded(picture()[..., 0].astype(np.uint16) << 8, "PNG"), size),
        "colour16.png": (sixteen_bit_colour(), size),
        "animated.gif": (encoded(Image.fromarray(picture()), "GIF", save_all=True, append_images=[other]), size),
        "animated.webp": (encoded(Image.fromarray(picture()), "WEBP", save_all=True, append_images=[other]), size),
        "palette.png": (encoded(Image.fromarray(picture()).quantize(9), "PNG", transparency=2), size),
        "alpha.png": (encoded(Image.fromarray(picture()).convert("RGBA"), "PNG"), size),
        "bilevel.png": (encoded(Image.fromarray(picture()).convert("1"), "PNG"), size),
        "really a jpeg.png": (jpeg, size),
        "really_png.tiff": (png, size),
        "trailing.jpg": (jpeg + b"\0" * 10_000 + b"<?php", size),
        "new\nline.png": (png, size),
        "日本語 ñ.png": (png, size),
        "a" * 251 + ".png": (png, size),
        "per%20cent::two!.png": (png, size),
    }


def bad_files() -> dict[str, bytes]:
    jpeg, png = encoded(picture(), "JPEG", quality=95), encoded(picture(), "PNG")
    cut = {f"cut{eighth}.png": png[: len(png) * eighth // 8] for eighth in range(8)}
    return {
        **cut,
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:20],
        "empty.jpg": b"",
        "zeros.png": bytes(5000),
        "text.jpg": b"this is a letter and no image\n" * 30,
        "page.png": b"<!doctype html><title>404</title>",
        "program.jpg": encoded(picture(), "EPS"),
        "claims.png": png_that_claims(65_000, 65_000),
        "short.png": png_that_claims(3_000, 3_000),
        "float.tiff": encoded(np.ones((3, 3), np.float32), "TIFF"),
    }


def any_files() -> dict[str, bytes]:
    """Bits turned over at random: each may be readable or not, which is for the decoder to say."""
    jpeg, png = encoded(picture(), "JPEG", quality=95), encoded(picture(), "PNG")
    webp = encoded(picture(), "WEBP", lossless=True)
    return {
        f"flip{seed}.{kind}": flipped(data, seed)
        for seed in range(3)
        for kind, data in (("jpg", jpeg), ("png", png), ("webp", webp))
    }


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> dict[str, dict[str, Any]]:
    """Every row of one run over all of them."""
    source, output = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("out")
    good = {name: data for name, (data, _) in good_files().items()}
    for name, data in (good | bad_files() | any_files()).items():
        (source / name).write_bytes(data)
    recipe = {
        "input": str(source),
        "output": str(output / "dataset"),
        "model": {"checkpoint": "sam_tiny"},
        "generate": {"points_per_side": 2, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
        "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
    }
    summary = run(validate_recipe(recipe), quiet=True)
    assert summary.status == "done" and summary.tally.images == len(good) + len(bad_files()) + len(any_files())
    assert verify_dataset(recipe["output"]).num_problems == 0
    target = Round(Folder(recipe["output"]), 0)
    rows = [row for part in target.parts() for row in target.read_part(part).to_pylist()]
    return {row["image_id"]: row for row in rows}


def test_there_are_forty_and_none_is_lost(annotated: dict[str, dict[str, Any]]) -> None:
    assert set(annotated) == {*good_files(), *bad_files(), *any_files()} and len(annotated) >= 40


@pytest.mark.parametrize("name", good_files())
def test_a_good_one_is_annotated_at_its_size(annotated: dict[str, dict[str, Any]], name: str) -> None:
    row = annotated[name]
    assert (row["status"], row["error"]) == ("ok", None)
    assert (row["height"], row["width"]) == good_files()[name][1]
    assert row["content_sha256"] and row["phash"] and row["decode"]["bands"]


@pytest.mark.parametrize("name", bad_files())
def test_a_bad_one_is_a_failed_row_with_a_reason(annotated: dict[str, dict[str, Any]], name: str) -> None:
    row = annotated[name]
    assert row["status"] == "failed" and row["error"].startswith("decode: ") and len(row["error"]) > len("decode: x")
    assert row["masks"] == row["rles"] == [] and row["content_sha256"]


@pytest.mark.parametrize("name", any_files())
def test_turned_bits_give_an_image_or_a_reason(annotated: dict[str, dict[str, Any]], name: str) -> None:
    row = annotated[name]
    assert row["status"] == "ok" or (row["status"] == "failed" and row["error"])


def test_what_was_found_is_recorded(annotated: dict[str, dict[str, Any]]) -> None:
    found = {name: row["decode"] for name, row in annotated.items()}
    assert found["exif.jpg"]["orientation"] == 6
    assert (found["cmyk.jpg"]["mode"], found["cmyk.jpg"]["bands"]) == ("CMYK", [0, 1, 2, 3])
    assert found["grey16.png"]["bit_depth"] == found["colour16.png"]["bit_depth"] == 16
    assert (found["alpha.png"]["mode"], found["alpha.png"]["bands"]) == ("RGBA", [0, 1, 2])
    assert found["palette.png"]["mode"] == "P" and found["bilevel.png"]["bit_depth"] == 1
    assert "65000×65000 is above decode.max_pixels" in annotated["claims.png"]["error"]
