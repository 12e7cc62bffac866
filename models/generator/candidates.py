"""All candidates of one image, column by column."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """N candidates in the generator's order: crop, then point, then decoder output.

    `number` (N,) counts every decoder output of the image in that order, passed or not, so that it names a candidate
    whatever the thresholds. `point` (N, 2) and `crop_box` (N, 4; x, y, w, h) are in image pixels, `bbox` (N, 4) and the
    COCO compressed run lengths `rles` those of the mask in the whole image. `agreement` (N,) is how many of the
    crop's candidates say the same mask, itself included; None where nobody asked.
    """

    height: int
    width: int
    number: np.ndarray
    bbox: np.ndarray
    area: np.ndarray
    predicted_iou: np.ndarray
    stability_score: np.ndarray
    point: np.ndarray
    crop_box: np.ndarray
    crop_layer: np.ndarray
    mask_index: np.ndarray
    rles: list[bytes]
    agreement: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rles)
