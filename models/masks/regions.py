"""Clean-up of a mask's small components and holes.

Kirillov et al., «Segment Anything» (2023), appendix B, «Postprocessing»: components below 100 pixels are removed,
with the whole mask if its largest is below, then holes below 100 pixels are filled, a hole being a component of the
inverted mask. The published code (segment-anything, `utils/amg.py`, `remove_small_regions`, called by
`postprocess_small_regions`) differs twice: it fills holes before it removes components, and it keeps the largest
component when all are small. Here the paper decides. What the paper leaves open follows the code: pixels that touch
at a corner are connected, in objects and holes alike, and a piece of background at the image's edge is a hole too.
"""

import cv2
import numpy as np

from models.masks.rle import (
    bounding_boxes,
    compress_counts,
    counts_from_transitions,
    decode_patch,
    transitions,
)


def clean_mask(mask: np.ndarray, min_component_area: int, max_hole_area: int) -> tuple[np.ndarray, bool]:
    """Remove components smaller than `min_component_area` pixels, then fill holes smaller than `max_hole_area`.

    mask: bool or uint8 (H, W). Returns the cleaned mask, uint8 (H, W) of 0 and 1, and whether it differs. The result
    is empty when every component was too small; the caller drops such a mask.
    """
    original = (mask != 0).astype(np.uint8)
    large = _without_small(original, min_component_area)
    if not large.any():
        return large, bool(original.any())
    cleaned = 1 - _without_small(1 - large, max_hole_area)
    return cleaned, not np.array_equal(cleaned, original)


def _without_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    """Only the 8-connected components of at least `min_area` pixels."""
    if min_area <= 1:
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = stats[1:, cv2.CC_STAT_AREA] >= min_area  # label 0 is what is not in the mask
    if large.all():
        return mask
    return np.concatenate([[0], large]).astype(np.uint8)[labels]


def clean_rle(rle: bytes, height: int, width: int, min_component_area: int, max_hole_area: int) -> tuple[bytes, bool]:
    """`clean_mask` on a compressed mask, at the cost of its box instead of the image.

    Returns the cleaned COCO string (that of an empty mask when nothing is left) and whether it differs. Raises
    ValueError as `models.masks.rle.decode_masks`.
    """
    x, y, w, h = bounding_boxes([rle], height)[0].tolist()
    if w == 0:
        return rle, False
    # The box is widened until the background on each side is either there in full or too large to be a hole, so that
    # no area that decides anything is cut off.
    margin_x, margin_y = max(1, -(-max_hole_area // h)), max(1, -(-max_hole_area // w))
    x0, y0 = max(0, x - margin_x), max(0, y - margin_y)
    x1, y1 = min(width, x + w + margin_x), min(height, y + h + margin_y)
    patch = decode_patch(rle, height, width, (x0, y0, x1 - x0, y1 - y0))
    cleaned, changed = clean_mask(patch, min_component_area, max_hole_area)
    if not changed:
        return rle, False
    counts = counts_from_transitions(transitions(cleaned, x0, y0, height), height * width)
    return compress_counts(counts, np.array([len(counts)]))[0], True
