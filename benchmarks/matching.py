"""How far two sets of masks of the same image agree, mask by mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation.overlap import pairwise_iou
from models.masks.matching import match_one_to_one

MATCHED = 0.95  # IoU from which two masks count as the same


@dataclass(frozen=True)
class ScoredMasks:
    """N masks of one image: COCO compressed run lengths and the generator's two scores, (N,) each."""

    height: int
    width: int
    rles: Sequence[bytes]
    predicted_iou: np.ndarray
    stability_score: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """Counts over one image or several; `matched` pairs have an IoU of at least .95, `near` of .99, `equal` of 1.

    The differences are the largest among matched pairs.
    """

    num_reference: int
    num_ours: int
    matched: int
    near: int
    equal: int
    sum_matched_iou: float
    max_predicted_iou_difference: float
    max_stability_difference: float

    @property
    def share(self) -> float:
        """Matched pairs over the larger of the two counts, so that a missing and an extra mask both cost; 1 if both
        sets are empty."""
        larger = max(self.num_reference, self.num_ours)
        return self.matched / larger if larger else 1.0

    @property
    def near_share(self) -> float:
        larger = max(self.num_reference, self.num_ours)
        return self.near / larger if larger else 1.0

    @property
    def mean_matched_iou(self) -> float:
        """Over matched pairs; 0 if there are none."""
        return self.sum_matched_iou / self.matched if self.matched else 0.0

    @property
    def missing(self) -> int:
        """Reference masks that no mask of ours matches."""
        return self.num_reference - self.matched

    @property
    def extra(self) -> int:
        """Masks of ours that match none of the reference."""
        return self.num_ours - self.matched

    @property
    def count_difference(self) -> float:
        """|ours - reference| / reference; against an empty reference, the number of ours."""
        return abs(self.num_ours - self.num_reference) / max(1, self.num_reference)


def agreement(reference: ScoredMasks, ours: ScoredMasks) -> Agreement:
    """Compares two sets of masks of one image."""
    iou = pairwise_iou(reference.rles, ours.rles, ours.height, ours.width)
    pairs = [(row, column) for row, column in match_one_to_one(iou) if iou[row, column] >= MATCHED]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    overlaps = iou[rows, columns]
    return Agreement(
        num_reference=len(reference.rles),
        num_ours=len(ours.rles),
        matched=len(pairs),
        near=int((overlaps >= 0.99).sum()),
        equal=int((overlaps == 1).sum()),
        sum_matched_iou=float(overlaps.sum()),
        max_predicted_iou_difference=_largest(reference.predicted_iou[rows] - ours.predicted_iou[columns]),
        max_stability_difference=_largest(reference.stability_score[rows] - ours.stability_score[columns]),
    )


def total(parts: Sequence[Agreement]) -> Agreement:
    """All images together: counts add up, the largest difference is the largest of any."""
    return Agreement(
        num_reference=sum(part.num_reference for part in parts),
        num_ours=sum(part.num_ours for part in parts),
        matched=sum(part.matched for part in parts),
        near=sum(part.near for part in parts),
        equal=sum(part.equal for part in parts),
        sum_matched_iou=sum(part.sum_matched_iou for part in parts),
        max_predicted_iou_difference=max((part.max_predicted_iou_difference for part in parts), default=0.0),
        max_stability_difference=max((part.max_stability_difference for part in parts), default=0.0),
    )


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max(initial=0.0))
