"""Whether a predicted IoU means what it says."""

from dataclasses import dataclass

import numpy as np

NUM_BINS = 20


@dataclass(frozen=True)
class CalibrationBin:
    """Masks with a predicted IoU in [low, high): how many, and the means of what was predicted and what was true."""

    low: float
    high: float
    num_masks: int
    mean_predicted: float
    mean_true: float


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error and the curve: the bins that hold masks, ascending. None without any mask."""

    error: float | None
    num_masks: int
    bins: list[CalibrationBin]


class CalibrationTally:
    """Expected calibration error of a predicted IoU (Guo et al. 2017, arXiv:1706.04599, section 2, with the true IoU
    in the place of accuracy).

    Masks are sorted into 20 equal bins of predicted IoU over [0, 1]; predictions beyond either end fall into the
    outermost bin with the value they have. The error is the mean over the bins, weighted by their masks, of |mean
    predicted IoU - mean true IoU|.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(NUM_BINS, np.int64)
        self._predicted = np.zeros(NUM_BINS)
        self._true = np.zeros(NUM_BINS)

    def add(self, predicted_iou: np.ndarray, true_iou: np.ndarray) -> None:
        """Two arrays of the same shape, an entry a mask."""
        assert predicted_iou.shape == true_iou.shape, "one true IoU a prediction"
        predicted = predicted_iou.ravel().astype(np.float64)
        index = np.clip(np.floor(predicted * NUM_BINS), 0, NUM_BINS - 1).astype(np.int64)
        self._counts += np.bincount(index, minlength=NUM_BINS)
        self._predicted += np.bincount(index, predicted, NUM_BINS)
        self._true += np.bincount(index, true_iou.ravel(), NUM_BINS)

    def calibration(self) -> Calibration:
        total = int(self._counts.sum())
        error = float(np.abs(self._predicted - self._true).sum() / total) if total else None
        bins = [
            CalibrationBin(
                low=index / NUM_BINS,
                high=(index + 1) / NUM_BINS,
                num_masks=int(self._counts[index]),
                mean_predicted=float(self._predicted[index] / self._counts[index]),
                mean_true=float(self._true[index] / self._counts[index]),
            )
            for index in np.flatnonzero(self._counts).tolist()
        ]
        return Calibration(error, total, bins)
