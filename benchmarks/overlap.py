"""How well masks cover the segments that people drew."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Best overlaps of one annotator's N segments with a set of masks, or means of such figures; all within 0..1.

    With best(s) the highest IoU of any mask with segment s (0 if there is no mask): `mean_best` is the mean of best(s)
    over the segments, `area_weighted_best` the mean weighted by the segments' areas (the «covering» of Arbelaez et al.,
    TPAMI 2011, section 3.1.1, over the drawn segments), `recall_50` and `recall_75` the share of the segments with
    best(s) of at least .5 and .75.
    """

    mean_best: float
    area_weighted_best: float
    recall_50: float
    recall_75: float


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


def grid_boxes(height: int, width: int, per_side: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """A pyramid of boxes x0, y0, x1, y1 (x1 and y1 exclusive): for each n in `per_side`, n x n that tile the image.

    A box of a tiny image that would hold no pixel is left out.
    """
    boxes = []
    for n in per_side:
        rows, columns = (np.rint(np.linspace(0, length, n + 1)).astype(int).tolist() for length in (height, width))
        for y0, y1 in pairwise(rows):
            boxes += [(x0, y0, x1, y1) for x0, x1 in pairwise(columns) if x0 < x1 and y0 < y1]
    return boxes
