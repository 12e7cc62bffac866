import numpy as np
import pytest
from pydantic import ValidationError

from models.training.augment import AugmentSettings, augment, fit_masks, jitter_colour, make_example

PLAIN = AugmentSettings(min_scale=1, max_scale=1, flip=0, colour=0, min_mask_cells=1)


def _scene(height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((height, width, 3), np.uint8)
    masks = np.zeros((1, height, width), np.uint8)
    masks[0, 8:24, 8:32] = 1
    image[masks[0] > 0] = 255
    return image, masks


def test_without_jitter_the_picture_fits_the_frame_and_masks_follow() -> None:
    image, masks = _scene()
    picture, cells, _ = augment(image, masks, 128, 32, np.random.default_rng(0), PLAIN)
    assert picture.shape == (96, 128, 3)
    expected = np.zeros((1, 32, 32), bool)
    expected[0, 4:12, 4:16] = True
    assert np.array_equal(cells, expected)
    assert picture[20:44, 20:60].mean() == 255


def test_a_flip_flips_both() -> None:
    image, masks = _scene()
    flipped = PLAIN.model_copy(update={"flip": 1.0})
    picture, cells, _ = augment(image, masks, 128, 32, np.random.default_rng(0), flipped)
    plain_picture, plain_cells, _ = augment(image, masks, 128, 32, np.random.default_rng(0), PLAIN)
    assert np.array_equal(picture, plain_picture[:, ::-1])
    assert np.array_equal(cells, plain_cells[:, :, ::-1])


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_masks_stay_on_the_picture_at_any_scale(scale: float) -> None:
    image, masks = _scene()
    how = PLAIN.model_copy(update={"min_scale": scale, "max_scale": scale})
    for seed in range(20):
        picture, cells, _ = augment(image, masks, 64, 64, np.random.default_rng(seed), how)
        assert max(picture.shape[:2]) <= 64
        if len(cells):
            white = np.zeros((64, 64), bool)
            white[: picture.shape[0], : picture.shape[1]] = picture[..., 0] > 127
            assert (white != cells[0]).mean() < 0.02


def test_too_large_too_small_and_empty_masks_are_discarded() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    masks = np.zeros((4, 40, 40), np.uint8)
    masks[0] = 1  # all of it
    masks[1, :39, :38] = 1  # 92.6 %
    masks[2, 0, 0] = 1  # one pixel
    masks[3, :20, :20] = 1
    _, cells, kept = augment(
        image, masks, 40, 10, np.random.default_rng(0), PLAIN.model_copy(update={"min_mask_cells": 4})
    )
    assert len(cells) == 1 and cells[0].sum() == 25 and kept.tolist() == [3]


def test_an_image_of_one_pixel_and_one_without_masks() -> None:
    for side in (1, 30):
        image = np.full((side, side, 3), 9, np.uint8)
        picture, cells, _ = augment(
            image, np.zeros((0, side, side), np.uint8), 64, 16, np.random.default_rng(0), AugmentSettings()
        )
        assert picture.ndim == 3 and min(picture.shape[:2]) >= 1
        assert cells.shape == (0, 16, 16)


def test_a_cell_belongs_to_the_mask_that_covers_half_of_it() -> None:
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[0, :, :3] = 1  # three quarters of the first cells
    masks[1, :, :1] = 1  # one quarter
    cells, kept = fit_masks(masks, (8, 8), 8, 2, min_cells=1)
    assert kept.tolist() == [0]
    assert len(cells) == 1 and cells[0].tolist() == [[True, False], [True, False]]


def test_colour_jitter_changes_colours_within_range_and_only_if_asked() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    changed = jitter_colour(image, np.random.default_rng(1), 0.3)
    assert changed.dtype == np.uint8 and changed.shape == image.shape
    assert 2 < np.abs(changed.astype(int) - image).mean() < 100


def test_examples_are_a_function_of_the_seed() -> None:
    image, masks = _scene()
    weights = np.array([0.5])
    one, two = (
        make_example(image, masks, weights, "a", 64, 16, np.random.default_rng([1, 2]), AugmentSettings())
        for _ in range(2)
    )
    assert one.image.equal(two.image) and one.masks.equal(two.masks) and one.name == "a"
    assert one.weights.tolist() == [0.5]


def test_weights_stay_with_their_masks() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    masks = np.zeros((3, 40, 40), np.uint8)
    masks[0] = 1  # too large
    masks[1, :20, :20] = 1
    masks[2, 20:, 20:] = 1
    example = make_example(image, masks, np.array([1.0, 0.25, 10.0]), "a", 40, 10, np.random.default_rng(0), PLAIN)
    assert example.masks[:, 0, 0].tolist() == [True, False]
    assert example.weights.tolist() == [0.25, 10.0]


def test_settings_refuse_scales_in_the_wrong_order() -> None:
    with pytest.raises(ValidationError, match=r"min_scale 2\.0 exceeds max_scale 1\.0"):
        AugmentSettings(min_scale=2, max_scale=1)
