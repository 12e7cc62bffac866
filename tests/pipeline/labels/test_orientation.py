import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.masks.rle import decode_masks, encode_masks
from pipeline.labels.orientation import cannot_be_told, only_stored_fits, turn_mask, turn_point
from stages.decode_pixels import DecodeSettings, decode_image, read_header

HEIGHT, WIDTH = 5, 7
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[0, 0] = MASK[1, 2:6] = MASK[4, 6] = True  # like none of its turns


def stored(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = io.BytesIO()
    Image.fromarray(np.repeat(np.where(MASK, 255, 0).astype(np.uint8)[..., None], 3, axis=2)).save(
        sink, "PNG", exif=exif
    )
    return sink.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_picture_is(orientation: int, tmp_path: Path) -> None:
    shown = decode_image(stored(orientation), DecodeSettings())
    size = shown.pixels.shape[:2]
    turned = turn_mask(encode_masks(MASK[None])[0], HEIGHT, WIDTH, orientation)
    assert np.array_equal(decode_masks([turned], *size)[0], shown.pixels[..., 0] > 0)
    (tmp_path / "a.png").write_bytes(stored(orientation))
    assert read_header(tmp_path / "a.png") == (size, orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_point_goes_where_its_pixel_goes(orientation: int) -> None:
    shown = decode_image(stored(orientation), DecodeSettings()).pixels[..., 0] > 0
    for x, y in [(0, 0), (2, 1), (5, 1), (6, 4), (3, 3)]:
        turned = turn_point([x + 0.5, y + 0.5], HEIGHT, WIDTH, orientation)  # a pixel's middle
        column, row = (int(value) for value in turned)
        assert shown[row, column] == MASK[y, x]


def test_what_sizes_tell_about_the_space_of_labels() -> None:
    wide, high, square = (48, 64), (64, 48), (50, 50)
    assert only_stored_fits(wide, high, 6) and not only_stored_fits(wide, wide, 6)
    assert not only_stored_fits(wide, high, 3) and not only_stored_fits((40, 40), high, 6)
    assert [cannot_be_told(wide, one) for one in range(1, 9)] == [False, True, True, True, *[False] * 4]
    assert [cannot_be_told(square, one) for one in range(1, 9)] == [False, *[True] * 7]
