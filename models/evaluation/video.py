"""J and F: how well masks follow objects through a clip.

Perazzi et al., «A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation» (2016): J is the overlap
of the regions, F the F-measure of their boundaries within a tolerance. Facts of the published evaluation
(davis2017-evaluation, `metrics.py`): the tolerance is .008 of the frame's diagonal, rounded up; a boundary pixel
differs from its neighbour to the right, below, or across; two empty masks agree fully.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_TOLERANCE = 0.008  # of the frame's diagonal


@dataclass(frozen=True)
class RegionAndBoundary:
    """Means over frames and objects."""

    region: float
    boundary: float

    @property
    def mean(self) -> float:
        """J&F."""
        return 0.5 * (self.region + self.boundary)


def score_tracks(found: np.ndarray, truth: np.ndarray) -> RegionAndBoundary:
    """J and F of one object's masks, bool (T, H, W) each, averaged over the T > 0 frames."""
    assert found.shape == truth.shape and found.dtype == truth.dtype == np.bool_ and len(found)
    region = [region_similarity(*pair) for pair in zip(found, truth, strict=True)]
    boundary = [boundary_accuracy(*pair) for pair in zip(found, truth, strict=True)]
    return RegionAndBoundary(float(np.mean(region)), float(np.mean(boundary)))


def region_similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two bool (H, W) masks, 1 where both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def boundary_accuracy(found: np.ndarray, truth: np.ndarray) -> float:
    """F: of two bool (H, W) masks, the harmonic mean of the shares of each boundary that lie near the other's."""
    height, width = truth.shape
    radius = int(np.ceil(_TOLERANCE * np.hypot(height, width)))
    first, second = boundary(found), boundary(truth)
    num_first, num_second = int(first.sum()), int(second.sum())
    if not num_first or not num_second:
        return float(num_first == num_second)
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x * x + y * y <= radius * radius).astype(np.uint8)
    precision = int((first & (cv2.dilate(second.view(np.uint8), disc) > 0)).sum()) / num_first
    recall = int((second & (cv2.dilate(first.view(np.uint8), disc) > 0)).sum()) / num_second
    return 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """The boundary pixels of a bool (H, W) mask; the frame's own edge is none."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.asarray((mask ^ right) | (mask ^ below) | (mask ^ across))
