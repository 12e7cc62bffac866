"""Bring a model's predicted IoU onto the true one's scale, without changing any mask.

A line through (predicted, true) pairs, as in Platt's scaling of a classifier's score (Platt 1999) with a line in the
place of the sigmoid: both are IoUs. It goes into the last layer of the IoU head, so inference needs nothing more.
"""

from dataclasses import dataclass

import numpy as np
import torch

from models.sam.model import Sam


@dataclass(frozen=True)
class Line:
    """true = slope * predicted + offset."""

    slope: float
    offset: float


class LineTally:
    """The least-squares line of pairs that come in parts."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)  # number, x, y, x * x, x * y

    def add(self, predicted_iou: np.ndarray, true_iou: np.ndarray) -> None:
        """Two arrays of the same shape, an entry a mask."""
        assert predicted_iou.shape == true_iou.shape, "one true IoU a prediction"
        x, y = predicted_iou.ravel().astype(np.float64), true_iou.ravel().astype(np.float64)
        self._sums += [len(x), x.sum(), y.sum(), (x * x).sum(), (x * y).sum()]

    def line(self) -> Line:
        """The mean of what is true where predictions are all alike or run against the truth: they tell nothing then.

        Raises ValueError without any pair.
        """
        number, x, y, xx, xy = self._sums
        if number == 0:
            raise ValueError("no mask to fit a line through; give labelled images with masks")
        spread = number * xx - x * x
        slope = (number * xy - x * y) / spread if spread > 1e-9 * number * number else 0.0
        slope = max(0.0, slope)
        return Line(float(slope), float((y - slope * x) / number))


@torch.no_grad()
def rescale_predicted_iou(sam: Sam, lines: dict[int, Line]) -> None:
    """Applies a line to the predicted IoU of each given output (0 the single mask, 1 and more the multimask ones)."""
    last = sam.mask_decoder.iou_prediction_head.layers[-1]
    for slot, line in lines.items():
        last.get_parameter("weight")[slot] *= line.slope
        bias = last.get_parameter("bias")
        bias[slot] = bias[slot] * line.slope + line.offset
