import numpy as np
import pytest

from pipeline.report.outlines import outline


@pytest.mark.parametrize(
    ("mask", "path"),
    [
        (np.ones((2, 3), np.uint8), "M11,21l0,18 28,0 0,-18z"),
        (np.zeros((2, 3), np.uint8), ""),
        (np.ones((100, 200), np.uint8), "M15,25l0,990 1990,0 0,-990z"),
    ],
)
def test_an_outline_goes_around_the_pixels(mask: np.ndarray, path: str) -> None:
    assert outline(mask, 1, 2, 10.0) == path


def test_an_outline_has_holes_and_parts() -> None:
    ring = np.ones((9, 9), np.uint8)
    ring[3:6, 3:6] = 0
    assert outline(ring, 0, 0, 100.0).count("M") == 2
    assert outline(np.eye(5, dtype=np.uint8)[:, ::2], 0, 0, 100.0).count("M") == 3
