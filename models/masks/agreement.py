"""How many of a crop's candidates say the same mask: a score for a model whose own ratings cannot be trusted."""

from collections.abc import Sequence

import numpy as np


def agreement(masks: Sequence[np.ndarray], iou_threshold: float) -> np.ndarray:
    """For each of N masks, all of the same cells as bits packed into uint8 (bytes,), how many of them, itself included,
    have an IoU of at least `iou_threshold` with it, int32 (N,). An empty mask agrees with none, not even with itself.

    Prompts on one object give its mask again and again, a chance mask comes once. Only masks whose areas are alike
    enough are compared: .05 s of a core for 1,600 masks of 96 x 64 cells.
    """
    if not masks:
        return np.zeros(0, np.int32)
    packed = np.stack(masks)
    words = np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)
    area = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    order = np.argsort(area, kind="stable")
    words, area = words[order], area[order]
    count = (area > 0).astype(np.int32)
    # an IoU of t takes areas within t of one another; a cell more, so that rounding rules nothing out
    last = np.searchsorted(area, area / iou_threshold + 1, side="right")
    for one in np.flatnonzero(area).tolist():
        others = slice(one + 1, last[one])
        shared = np.bitwise_count(words[one] & words[others]).sum(axis=1, dtype=np.int64)
        agrees = shared >= iou_threshold * (area[one] + area[others] - shared)
        count[others] += agrees
        count[one] += np.count_nonzero(agrees)
    found = np.empty_like(count)
    found[order] = count
    return found
