"""Where the automatic generator looks: crops of the image and a grid of points in each.

Kirillov et al., «Segment Anything» (2023), appendix B, «Cropping»; the numbers are those of segment-anything's
`utils/amg.py` (`build_point_grid`, `build_all_layer_point_grids`, `generate_crop_boxes`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Crop:
    """A rectangle x0, y0, x1, y1 of the image in pixels, x1 and y1 exclusive, and its layer: 0 is the whole image."""

    box: tuple[int, int, int, int]
    layer: int


def point_grid(points_per_side: int) -> np.ndarray:
    """The centres of n x n equal cells of the unit square as x, y, row by row; float64 (n * n, 2)."""
    offset = 1 / (2 * points_per_side)
    side = np.linspace(offset, 1 - offset, points_per_side)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def points_per_crop(points_per_side: int, layer: int, downscale_factor: int) -> int:
    """Points a side in a crop of `layer`: divided by the factor once a layer and cut to a whole number, at least 1."""
    return max(1, int(points_per_side / downscale_factor**layer))


def crop_boxes(height: int, width: int, layers: Sequence[int], overlap_ratio: float = 512 / 1500) -> list[Crop]:
    """The crops of an image of `height` x `width` pixels, layer after layer as `layers` names them (ascending).

    Layer i has 2**i crops a side, which overlap by `overlap_ratio` * 2 / 2**i of the image's short side; layer 0 is
    the whole image. The published code always begins with layer 0, here it may be left out. In a tiny image crops
    can come out empty or equal to an earlier one; those are left out too.
    """
    crops: dict[tuple[int, int, int, int], Crop] = {}
    for layer in layers:
        num_per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / num_per_side)) if layer else 0
        crop_height = math.ceil((overlap * (num_per_side - 1) + height) / num_per_side)
        crop_width = math.ceil((overlap * (num_per_side - 1) + width) / num_per_side)
        for column, row in product(range(num_per_side), repeat=2):
            x0, y0 = column * (crop_width - overlap), row * (crop_height - overlap)
            box = (x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height))
            if x0 < box[2] and y0 < box[3]:
                crops.setdefault(box, Crop(box, layer))
    return list(crops.values())
