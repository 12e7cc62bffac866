"""How masks lie on one another, from their run lengths.

Shared pixels are counted by pycocotools (`mask.iou`, in C, without decoding). Box and area bound what two masks can
share, and only pairs that the bound leaves open are counted. Empty masks overlap nothing.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from models.masks.rle import areas, bounding_boxes, check_masks

_PARENTS_PER_BLOCK = 16


def mask_iou(rles: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """Intersection over union of each pair of masks, float64 (N, N); 0 where one is empty."""
    return _compare(rles, height, width, over_first=False)


def containment(rles: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """|i and j| / |i|, float64 (N, N): the part of mask i that lies in mask j; 0 where one is empty."""
    return _compare(rles, height, width, over_first=True)


def coco_masks(rles: Sequence[bytes], height: int, width: int) -> list[dict[str, object]]:
    """Masks as pycocotools takes them. Raises ValueError for run lengths that are broken or of another size, as
    strangers' may be: its code would read on behind their end, or for ever."""
    check_masks(rles, height, width)
    return [{"size": [height, width], "counts": rle} for rle in rles]


def _compare(rles: Sequence[bytes], height: int, width: int, over_first: bool) -> np.ndarray:
    if not len(rles):
        return np.zeros((0, 0))
    masks = coco_masks(rles, height, width)
    return coco_mask.iou(masks, masks, [over_first] * len(masks))


def duplicates(
    rles: Sequence[bytes],
    scores: np.ndarray,
    height: int,
    width: int,
    iou_threshold: float | None,
    containment_threshold: float | None,
    min_area_ratio: float,
) -> np.ndarray:
    """For each mask the kept one that it repeats, int64 (N,), or -1.

    Going down `scores` (N,) (equal ones in their given order), a mask repeats a kept one if their IoU is at least
    `iou_threshold`, or if at least `containment_threshold` of the smaller one lies in the larger one and
    smaller area / larger area is at least `min_area_ratio`. None leaves a rule out. Of several, the best-scored is
    named. A mask that repeats another is not kept, so nothing repeats it.
    """
    area, boxes, masks = areas(rles), bounding_boxes(rles, height), coco_masks(rles, height, width)

    def repeats(shared: np.ndarray, one: np.int64, others: np.ndarray) -> np.ndarray:
        # both rules only grow truer with `shared`, so an upper bound of it may stand in to rule pairs out
        found = np.zeros(len(others), dtype=np.bool_)
        smaller, larger = np.minimum(one, others), np.maximum(one, others)
        if iou_threshold is not None:
            found |= shared / (one + others - shared) >= iou_threshold
        if containment_threshold is not None:
            found |= (shared / smaller >= containment_threshold) & (smaller / larger >= min_area_ratio)
        return found

    repeated = np.full(len(masks), -1, dtype=np.int64)
    kept = np.zeros(0, dtype=np.int64)
    for i in np.argsort(-scores, kind="stable"):
        if area[i] == 0:
            continue
        bound = np.minimum(_shared_box(boxes[i], boxes[kept]), np.minimum(area[i], area[kept]))
        open_pairs = kept[repeats(bound, area[i], area[kept])]
        if len(open_pairs):
            part = coco_mask.iou([masks[k] for k in open_pairs], [masks[i]], [True])[:, 0]
            shared = np.rint(part * area[open_pairs])
            hits = open_pairs[repeats(shared, area[i], area[open_pairs])]
            if len(hits):
                repeated[i] = hits[0]
                continue
        kept = np.append(kept, i)
    return repeated


def parents(rles: Sequence[bytes], height: int, width: int, threshold: float) -> np.ndarray:
    """The smallest mask that holds at least `threshold` of each mask and is strictly larger, int64 (N,); -1 for none.

    Of equally large ones the first is named. A parent is always larger than its child, so there are no cycles.
    """
    area, boxes, masks = areas(rles), bounding_boxes(rles, height), coco_masks(rles, height, width)
    by_area = np.argsort(area, kind="stable")
    num_not_larger = np.searchsorted(area[by_area], area, side="right")
    parent = np.full(len(masks), -1, dtype=np.int64)
    for i in np.flatnonzero(area):
        larger = by_area[num_not_larger[i] :]
        larger = larger[_shared_box(boxes[i], boxes[larger]) / area[i] >= threshold]
        for start in range(0, len(larger), _PARENTS_PER_BLOCK):
            block = larger[start : start + _PARENTS_PER_BLOCK]
            part = coco_mask.iou([masks[i]], [masks[k] for k in block], [True] * len(block))[0]
            hits = block[part >= threshold]
            if len(hits):
                parent[i] = hits[0]
                break
    return parent


def _shared_box(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pixels that the box x, y, w, h shares with each of (K, 4) others, int64 (K,)."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    return np.prod(np.maximum(high - low, 0), axis=1, dtype=np.int64)
