"""How well a set of masks covers labelled segments: the best overlap that each segment finds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from pycocotools import mask as coco_mask

from models.masks.overlap import coco_masks


@dataclass(frozen=True)
class Overlap:
    """Best overlaps of one annotator's N segments with a set of masks, or means of such figures; all within 0..1.

    With best(s) the highest IoU of any mask with segment s (0 if there is no mask): `mean_best` is the mean of best(s)
    over the segments, `area_weighted_best` the mean weighted by the segments' areas (the «covering» of Arbelaez et al.,
    TPAMI 2011, section 3.1.1, over the labelled segments), `recall_50` and `recall_75` the share of the segments with
    best(s) of at least .5 and .75.
    """

    mean_best: float
    area_weighted_best: float
    recall_50: float
    recall_75: float


def pairwise_iou(first: Sequence[bytes], second: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """IoU of each mask of `first` with each of `second` (COCO compressed run lengths), float64 (N, M).

    Raises ValueError for run lengths that are broken or of another size.
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    ours, theirs = (coco_masks(rles, height, width) for rles in (first, second))
    return np.asarray(coco_mask.iou(ours, theirs, [False] * len(second)))


def best_overlaps(iou: np.ndarray) -> np.ndarray:
    """IoU of each segment with each mask, (N, M) -> the best of each segment (N,); 0 where M is 0."""
    return iou.max(axis=1, initial=0.0)


def overlap(best: np.ndarray, areas: np.ndarray) -> Overlap:
    """The figures of one annotator: `best` (N,) and the segments' areas in pixels (N,), N at least 1."""
    assert len(best) == len(areas) > 0, "an annotator has at least one segment"
    return Overlap(
        mean_best=float(best.mean()),
        area_weighted_best=float((best * areas).sum() / areas.sum()),
        recall_50=float((best >= 0.5).mean()),
        recall_75=float((best >= 0.75).mean()),
    )


def mean_overlap(parts: Sequence[Overlap]) -> Overlap:
    """The plain mean of each figure; at least one part."""
    assert parts, "a mean needs at least one part"
    means = {one.name: float(np.mean([getattr(part, one.name) for part in parts])) for one in fields(Overlap)}
    return Overlap(**means)
