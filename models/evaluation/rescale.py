"""Bring a model's predicted IoU onto the true one's scale, without changing any mask.

A line through (predicted, true) pairs, as in Platt's scaling of a classifier's score (Platt 1999) with a line in the
place of the sigmoid: both are IoUs. Of a SAM 2, whose head ends in a sigmoid, the line lies before that sigmoid, which
is Platt's scaling itself. It goes into the last layer of the IoU head, so inference needs nothing more.
"""

from dataclasses import dataclass

import numpy as np
import torch

from models.sam.model import Sam
from models.sam2.model import Sam2

_EDGE = 1e-4  # logits are finite inside it


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


class LogitLineTally:
    """The line on the logits of the predictions whose sigmoid is nearest to the truth, in the sum of squares."""

    def __init__(self) -> None:
        self._logits: list[np.ndarray] = []
        self._true: list[np.ndarray] = []

    def add(self, predicted_iou: np.ndarray, true_iou: np.ndarray) -> None:
        """Two arrays of the same shape, an entry a mask; predictions are between 0 and 1."""
        assert predicted_iou.shape == true_iou.shape, "one true IoU a prediction"
        inside = predicted_iou.ravel().astype(np.float64).clip(_EDGE, 1 - _EDGE)
        self._logits.append(np.log(inside / (1 - inside)))
        self._true.append(true_iou.ravel().astype(np.float64))

    def line(self) -> Line:
        """Raises ValueError without any pair."""
        if not sum(len(part) for part in self._true):
            raise ValueError("no mask to fit a line through; give labelled images with masks")
        logits, true = (torch.from_numpy(np.concatenate(parts)) for parts in (self._logits, self._true))
        line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([line], max_iter=50, line_search_fn="strong_wolfe")

        def error() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (torch.sigmoid(line[0] * logits + line[1]) - true).square().mean()
            loss.backward()
            return loss

        optimizer.step(error)
        slope, offset = line.tolist()
        if slope > 0:
            return Line(slope, offset)
        # predictions that run against the truth tell nothing: its mean is said of all
        mean = float(true.mean().clamp(_EDGE, 1 - _EDGE))
        return Line(0.0, float(np.log(mean / (1 - mean))))


def line_tally(sam: Sam | Sam2) -> LineTally | LogitLineTally:
    """An empty tally for the scale on which the model's IoU head ends."""
    return LogitLineTally() if isinstance(sam, Sam2) else LineTally()


@torch.no_grad()
def rescale_predicted_iou(sam: Sam | Sam2, lines: dict[int, Line]) -> None:
    """Applies a line to the predicted IoU of each given output (0 the single mask, 1 and more the multimask ones)."""
    last = sam.mask_decoder.iou_prediction_head.layers[-1]
    for slot, line in lines.items():
        last.get_parameter("weight")[slot] *= line.slope
        bias = last.get_parameter("bias")
        bias[slot] = bias[slot] * line.slope + line.offset
