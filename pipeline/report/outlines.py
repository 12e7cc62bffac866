"""A mask as an SVG path."""

import cv2
import numpy as np

MAX_PATH = 2500  # characters
TOLERANCE = 1.5  # units of the picture that a simplified outline may be off
_FINE = 4  # an outline runs through the centres of pixels; those of a small mask are cut in 4 × 4 first
_FINE_PIXELS = 64 * 64
_MAX_LOOPS = 100
# a mask of very many pixels or specks is made smaller first, as its outline would take seconds
_MAX_PIXELS = 4_000_000
_MAX_CHANGES = 20_000
_COARSE_SIDE = 256


def outline(patch: np.ndarray, x: int, y: int, scale: float) -> str:
    """Path data of a mask's outer and inner edges, for the even-odd rule; empty for a mask of no pixel.

    patch: (h, w) uint8, the mask inside its box, whose top left corner stands at (x, y); scale: units of the picture
    a pixel. Numbers are whole, every point but a loop's first is relative to the one before. Of a mask with many parts
    the longest edges are drawn.
    """
    parts = 1.0
    if patch.size <= _FINE_PIXELS:
        parts = _FINE
        patch = np.kron(patch, np.ones((_FINE, _FINE), np.uint8))
    elif patch.size > _MAX_PIXELS or np.count_nonzero(patch[:, 1:] != patch[:, :-1]) > _MAX_CHANGES:
        parts = _COARSE_SIDE / max(patch.shape)
        patch = _shrunk(patch, parts)
    loops, _ = cv2.findContours(patch, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    unit = scale / parts
    loops = sorted(loops, key=len, reverse=True)[:_MAX_LOOPS]
    path, tolerance = "", TOLERANCE
    while True:
        path = "".join(_loop(one, unit, tolerance, x * scale, y * scale) for one in loops)
        if len(path) <= MAX_PATH or (len(loops) == 1 and tolerance > 100 * TOLERANCE):
            return path
        tolerance *= 2
        loops = loops[: max(1, len(loops) * 3 // 4)]


def _shrunk(patch: np.ndarray, factor: float) -> np.ndarray:
    """Pixels that a mask covers by half; if there is none, those that it touches."""
    size = (max(1, round(patch.shape[1] * factor)), max(1, round(patch.shape[0] * factor)))
    cover = cv2.resize(patch * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    half = (cover > 127).astype(np.uint8)
    return half if half.any() else (cover > 0).astype(np.uint8)


def _loop(points: np.ndarray, unit: float, tolerance: float, left: float, top: float) -> str:
    simple = cv2.approxPolyDP(points, tolerance / unit, closed=True)[:, 0]
    placed = np.rint((simple + 0.5) * unit + (left, top)).astype(int)
    steps = np.diff(placed, axis=0)
    first = "M{},{}".format(*placed[0])
    return first + ("l" + " ".join(f"{dx},{dy}" for dx, dy in steps.tolist()) if len(steps) else "h0") + "z"
