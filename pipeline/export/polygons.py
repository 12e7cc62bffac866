"""A mask as one closed line through pixels, as formats without holes and parts have it."""

import cv2
import numpy as np

MAX_RINGS = 1000


def outline(patch: np.ndarray) -> np.ndarray:
    """One polygon that `cv2.fillPoly` turns back into the mask, but for the bridges; int32 (N, 2) of x, y, N ≥ 3.

    patch: uint8 (h, w) of 0 and 1, not empty. A hole's or another part's border is joined by a bridge there and back
    between two points that are near, so that holes stay open and parts belong together; a bridge is a line one pixel
    wide through what it crosses, and all that a mask loses. Of more than MAX_RINGS borders the longest count.
    """
    found, _ = cv2.findContours(patch, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = sorted((ring.reshape(-1, 2) for ring in found), key=len, reverse=True)[:MAX_RINGS]
    line = rings[0]
    for ring in rings[1:]:
        here = _nearest(line, ring[0])
        there = _nearest(ring, line[here])
        here = _nearest(line, ring[there])
        line = np.concatenate([line[: here + 1], ring[there:], ring[: there + 1], line[here:]])
    if len(line) < 3:
        line = np.concatenate([line, np.repeat(line[-1:], 3 - len(line), axis=0)])
    return line


def _nearest(line: np.ndarray, point: np.ndarray) -> int:
    return int(((line - point) ** 2).sum(-1).argmin())
