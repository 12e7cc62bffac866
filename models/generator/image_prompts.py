"""Prompts that an image brings itself, from a detector or a person, instead of the grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImagePrompts:
    """Boxes (N, 4; x0, y0, x1, y1) and foreground points (M, 2; x, y) in pixels of the upright image; each asks for
    masks of its own. With none of either the image has no candidates."""

    boxes: np.ndarray
    points: np.ndarray

    @classmethod
    def of(
        cls, boxes: Sequence[Sequence[float]], points: Sequence[Sequence[float]], height: int, width: int
    ) -> "ImagePrompts":
        """Boxes are cut to the image. Raises ValueError for one that is empty then, and for a point outside."""
        size = np.array([width, height], np.float64)
        corners = np.array(boxes, np.float64).reshape(-1, 2, 2)
        inside = np.clip(corners, 0, size)
        good = np.isfinite(corners).all((1, 2)) & (inside[:, 0] < inside[:, 1]).all(1)
        if not good.all():
            raise ValueError(f"boxes: {corners[~good][0].reshape(-1).tolist()} holds no pixel of {width}×{height}")
        where = np.array(points, np.float64).reshape(-1, 2)
        good = ((where >= 0) & (where <= size)).all(1)
        if not good.all():
            raise ValueError(f"points: {where[~good][0].tolist()} is outside of {width}×{height}")
        return cls(inside.reshape(-1, 4), where)
