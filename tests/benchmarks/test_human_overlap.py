from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from benchmarks.human_overlap import box_masks, grid_boxes, measure
from models.masks.rle import areas, encode_masks
from pipeline.coco_labels import LabelledImage

HEIGHT, WIDTH = 6, 8


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[y0:y1, x0:x1] = 1
    return pixels


def test_measure_averages_over_annotators_and_then_over_images() -> None:
    left, right, top = encode_masks(np.stack([mask(0, 0, 4, 6), mask(4, 0, 8, 6), mask(0, 0, 8, 2)]))
    images = {
        "a": LabelledImage(Path("a"), HEIGHT, WIDTH, {0: [left, right], 1: [top]}),
        "b": LabelledImage(Path("b"), HEIGHT, WIDTH, {0: [left]}),
    }
    found = measure(images, {"a": [left], "b": []})
    # image a: annotator 0 has best overlaps 1 and 0; annotator 1 shares 8 pixels of 24 + 16 - 8; image b has no mask
    assert found.num_images == 2
    assert found.masks_per_image == 0.5
    assert found.overlap.mean_best == pytest.approx(((0.5 + 0.25) / 2 + 0) / 2)
    assert found.overlap.area_weighted_best == pytest.approx(((0.5 + 0.25) / 2 + 0) / 2)
    assert found.overlap.recall_50 == pytest.approx((0.5 + 0) / 2 / 2)
    assert found.overlap.recall_75 == pytest.approx((0.5 + 0) / 2 / 2)


def test_the_yardstick_is_made_of_the_boxes_pixels() -> None:
    rles = box_masks(16, 24)
    assert len(rles) == 130
    assert areas(rles)[:5].tolist() == [384, 96, 96, 96, 96]
    assert coco_mask.decode({"size": [16, 24], "counts": rles[2]})[:8, 12:].all()  # the upper right quarter


def test_grid_boxes_by_hand() -> None:
    assert grid_boxes(4, 5, (1, 2)) == [
        (0, 0, 5, 4),
        *[(0, 0, 2, 2), (2, 0, 5, 2)],
        *[(0, 2, 2, 4), (2, 2, 5, 4)],
    ]


def test_the_yardstick_has_130_boxes() -> None:
    assert len(grid_boxes(321, 481, (1, 2, 3, 4, 6, 8))) == 130


def test_a_one_pixel_image_has_one_box_a_level() -> None:
    assert grid_boxes(1, 1, (1, 4)) == [(0, 0, 1, 1), (0, 0, 1, 1)]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_the_boxes_of_a_level_tile_the_image(height: int, width: int, n: int) -> None:
    covered = np.zeros((height, width), int)
    for x0, y0, x1, y1 in grid_boxes(height, width, (n,)):
        covered[y0:y1, x0:x1] += 1
    assert (covered == 1).all()
