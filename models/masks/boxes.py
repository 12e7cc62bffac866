"""Boxes of masks. Two conventions meet here: the record's boxes are x, y, w, h with w = xmax - xmin + 1
(pycocotools'); those of suppression and of the edge rule are x0, y0, x1, y1 with x1 = xmax, as the published
generator's (segment-anything, `utils/amg.py`, `batched_mask_to_box`)."""

import numpy as np


def inclusive_xyxy(bbox: np.ndarray) -> np.ndarray:
    """Boxes x, y, w, h (N, 4) of the record as x0, y0, xmax, ymax.

    Returns float32 (N, 4), the type in which the published generator computes; an empty mask keeps 0, 0, 0, 0.
    """
    sides = np.maximum(bbox[:, 2:] - 1, 0)
    return np.concatenate([bbox[:, :2], bbox[:, :2] + sides], axis=1).astype(np.float32)


def box_nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy suppression of boxes by better-scored ones; the answer of `torchvision.ops.nms`.

    boxes: float (N, 4), x0, y0, x1, y1; scores: (N,). Going down the scores (equal ones in their given order), a box
    that is kept suppresses each later one whose IoU with it is above `iou_threshold`. A side is x1 - x0, so two
    degenerate boxes have IoU 0/0, which suppresses nothing. Computed in the type of `boxes` and compared in float64,
    as torchvision does. Returns int64 indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable").astype(np.int64)
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[order].T)
    areas = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(order), dtype=np.bool_)
    for i in range(len(order)):
        if not alive[i]:
            continue
        later = slice(i + 1, None)
        width = np.maximum(np.minimum(x1[later], x1[i]) - np.maximum(x0[later], x0[i]), 0)
        height = np.maximum(np.minimum(y1[later], y1[i]) - np.maximum(y0[later], y0[i]), 0)
        shared = width * height
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = shared / (areas[i] + areas[later] - shared)
        alive[later] &= ~(iou.astype(np.float64) > iou_threshold)
    return order[alive]


def touches_crop_edge(
    boxes: np.ndarray,
    crop_box: tuple[int, int, int, int],
    image_size: tuple[int, int],
    tolerance: float = 20.0,
) -> np.ndarray:
    """Which masks an inner edge of their crop has probably cut.

    boxes: (N, 4) x0, y0, xmax, ymax in image coordinates; crop_box: x0, y0, x1, y1; image_size: (height, width).
    A side counts when it lies within `tolerance` pixels of the crop's same side but not of the image's
    (segment-anything, `utils/amg.py`, `is_box_near_crop_edge`; paper, appendix B). Returns bool (N,).
    """
    height, width = image_size
    near_crop = np.abs(boxes - np.array(crop_box)) <= tolerance
    near_image = np.abs(boxes - np.array([0, 0, width, height])) <= tolerance
    return (near_crop & ~near_image).any(axis=1)
