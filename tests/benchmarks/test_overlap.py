import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.overlap import Overlap, best_overlaps, grid_boxes, mean_overlap, overlap


def test_best_overlaps_per_segment() -> None:
    np.testing.assert_array_equal(best_overlaps(np.array([[0.1, 0.6], [0.0, 0.0]])), [0.6, 0.0])


def test_best_overlaps_without_masks_are_zero() -> None:
    np.testing.assert_array_equal(best_overlaps(np.zeros((3, 0))), [0, 0, 0])


def test_overlap_of_one_annotator() -> None:
    found = overlap(np.array([0.8, 0.5, 0.2, 0.0]), np.array([100, 300, 50, 50]))
    assert found.mean_best == pytest.approx(1.5 / 4)
    assert found.area_weighted_best == pytest.approx((80 + 150 + 10 + 0) / 500)
    assert found.recall_50 == 0.5  # .5 itself counts
    assert found.recall_75 == 0.25


def test_mean_overlap_is_the_plain_mean() -> None:
    assert mean_overlap([Overlap(0.25, 0.5, 1.0, 0.0), Overlap(0.75, 0.0, 0.0, 0.0)]) == Overlap(0.5, 0.25, 0.5, 0.0)


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
