import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.generator.grid import Crop, crop_boxes, point_grid, points_per_crop


def test_point_grid_by_hand() -> None:
    assert point_grid(1).tolist() == [[0.5, 0.5]]
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    grid = point_grid(32)
    assert grid.shape == (1024, 2) and grid.dtype == np.float64
    assert grid[0].tolist() == [1 / 64, 1 / 64] and grid[1, 1] == 1 / 64 and grid[-1].tolist() == [63 / 64, 63 / 64]
    assert np.allclose(np.diff(grid[:32, 0]), 1 / 32)


def test_points_per_crop() -> None:
    assert [points_per_crop(32, layer, 2) for layer in range(7)] == [32, 16, 8, 4, 2, 1, 1]
    assert [points_per_crop(32, layer, 1) for layer in range(3)] == [32, 32, 32]
    assert points_per_crop(32, 1, 3) == 10


def test_crops_of_the_papers_image_size() -> None:
    crops = crop_boxes(1500, 2250, (0, 1, 2))
    assert [crop.layer for crop in crops] == [0] + [1] * 4 + [2] * 16
    assert crops[0] == Crop((0, 0, 2250, 1500), 0)
    # overlap 512: sides ceil((512 + 2250) / 2) and ceil((512 + 1500) / 2)
    first = [(0, 0, 1381, 1006), (0, 494, 1381, 1500), (869, 0, 2250, 1006), (869, 494, 2250, 1500)]
    assert [crop.box for crop in crops[1:5]] == first
    # overlap 256: ceil((3 * 256 + 2250) / 4) = 755 and ceil((768 + 1500) / 4) = 567
    assert crops[5].box == (0, 0, 755, 567) and crops[6].box == (0, 311, 755, 878)
    assert crops[-1].box == (1497, 933, 2250, 1500)


def test_any_layers() -> None:
    everything = crop_boxes(600, 800, (0, 1, 2))
    assert crop_boxes(600, 800, (0,)) == [Crop((0, 0, 800, 600), 0)]
    assert crop_boxes(600, 800, (1, 2)) == everything[1:]
    assert crop_boxes(600, 800, (2,)) == everything[5:]
    assert len(crop_boxes(600, 800, [3])) == 64


def test_tiny_images() -> None:
    assert crop_boxes(1, 1, (0, 1, 2)) == [Crop((0, 0, 1, 1), 0)]
    assert crop_boxes(1, 1, (1, 2)) == [Crop((0, 0, 1, 1), 1)]
    assert [crop.box for crop in crop_boxes(1, 3, (1,))] == [(0, 0, 2, 1), (2, 0, 3, 1)]


@pytest.mark.parametrize("overlap_ratio", [0.0, 512 / 1500, 0.9])
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 3))
def test_each_layer_covers_the_image(overlap_ratio: float, height: int, width: int, layer: int) -> None:
    crops = crop_boxes(height, width, (layer,), overlap_ratio)
    covered = np.zeros((height, width), np.bool_)
    for crop in crops:
        x0, y0, x1, y1 = crop.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and crop.layer == layer
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len({crop.box for crop in crops}) == len(crops) <= 4**layer
