"""Average recall of ranked masks: how many labelled segments the best k masks of an image find."""

import numpy as np

from models.evaluation.sizes import SIZES, BySize, size_masks

MAX_MASKS = (10, 100, 1000)
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def matched_ranks(iou: np.ndarray, thresholds: np.ndarray = IOU_THRESHOLDS) -> np.ndarray:
    """The rank (0 is best) of the mask that each segment is matched with at each threshold, int64 (T, N); -1 for none.

    iou: (N, M), segments by masks, the masks best first. One to one, as COCO's evaluation matches (`cocoeval.py`,
    `evaluateImg`): down the ranks, each mask takes the free segment with which its IoU is highest, if that reaches the
    threshold; of equal ones the first. A mask's match does not depend on those ranked after it, so the match of the
    best k masks is the ranks below k.
    """
    ranks = np.full((len(thresholds), len(iou)), -1, np.int64)
    if not iou.size:
        return ranks
    each = np.arange(len(thresholds))
    for rank in np.flatnonzero(iou.max(axis=0) >= thresholds.min()):
        open_pairs = (ranks < 0) & (iou[:, rank] >= thresholds[:, None])
        best = np.where(open_pairs, iou[:, rank], -1.0).argmax(axis=1)  # (T,)
        found = open_pairs[each, best]
        ranks[each[found], best[found]] = rank
    return ranks


class RecallTally:
    """Average recall over images: COCO's AR at 10, 100 and 1,000 masks an image, without classes.

    The recall at one IoU threshold is the share of all segments (those of all images together) that are matched; AR is
    its mean over the thresholds .5, .55 … .95 (Hosang et al., TPAMI 2016, section 3; COCO's `cocoeval.py`). For a size
    only its own segments count and are matched: COCO lets masks match segments of other sizes without effect, which
    is the same recall.
    """

    def __init__(self) -> None:
        self._matched = {size: np.zeros((len(MAX_MASKS), len(IOU_THRESHOLDS)), np.int64) for size in SIZES}
        self._segments = dict.fromkeys(SIZES, 0)

    def add(self, iou: np.ndarray, areas: np.ndarray) -> None:
        """One annotator's segments of one image: `iou` (N, M) with its masks, best first, and `areas` (N,)."""
        assert len(iou) == len(areas), "one area a segment"
        for size, chosen in size_masks(areas).items():
            self._segments[size] += int(chosen.sum())
            ranks = matched_ranks(iou[chosen])
            for row, limit in enumerate(MAX_MASKS):
                self._matched[size][row] += ((ranks >= 0) & (ranks < limit)).sum(axis=1)

    def average_recall(self) -> dict[str, BySize]:
        """By number of masks ("10", "100", "1000"), then by size; None for a size without segments."""
        return {
            str(limit): {
                size: float((self._matched[size][row] / count).mean()) if count else None
                for size, count in self._segments.items()
            }
            for row, limit in enumerate(MAX_MASKS)
        }
