import numpy as np
import pytest

from models.evaluation.overlap import Overlap, best_overlaps, mean_overlap, overlap, pairwise_iou
from models.masks.rle import areas, encode_masks


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_figures_by_hand() -> None:
    segments = encode_masks(np.stack([rectangle(0, 0, 10, 10), rectangle(20, 0, 30, 20)]))
    masks = encode_masks(np.stack([rectangle(0, 0, 10, 5), rectangle(5, 0, 15, 10), rectangle(20, 0, 30, 15)]))
    iou = pairwise_iou(segments, masks, 20, 30)
    assert iou == pytest.approx(np.array([[1 / 2, 1 / 3, 0], [0, 0, 3 / 4]]))
    best = best_overlaps(iou)
    assert best.tolist() == [0.5, 0.75]
    assert overlap(best, areas(segments)) == Overlap(
        mean_best=0.625,
        area_weighted_best=pytest.approx((100 * 0.5 + 200 * 0.75) / 300),
        recall_50=1.0,
        recall_75=0.5,
    )


def test_perfect_masks_cover_everything_and_none_cover_nothing() -> None:
    segments = encode_masks(np.stack([rectangle(3, 4, 4, 5), rectangle(0, 0, 30, 20)]))
    perfect = overlap(best_overlaps(pairwise_iou(segments, segments[::-1], 20, 30)), areas(segments))
    nothing = overlap(best_overlaps(pairwise_iou(segments, [], 20, 30)), areas(segments))
    assert perfect == Overlap(1.0, 1.0, 1.0, 1.0)
    assert nothing == Overlap(0.0, 0.0, 0.0, 0.0)
    assert mean_overlap([perfect, nothing]) == Overlap(0.5, 0.5, 0.5, 0.5)
    assert pairwise_iou([], segments, 20, 30).shape == (0, 2)
