"""Draw a row's masks over its image, for people to look at."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from models.masks.rle import decode_patch

OPACITY = 0.45
OUTLINE = 2  # pixels


def draw_masks(image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
    """`image` (H, W, 3) uint8 with the kept masks of `row` tinted and outlined, the largest at the bottom.

    `row` is an image row of the dataset (`masks`, `rles`, `width`, `height`). Raises ValueError for an image of
    another size.
    """
    height, width = image.shape[:2]
    if (width, height) != (row["width"], row["height"]):
        raise ValueError(f"image: {width}×{height} pixels, its row says {row['width']}×{row['height']}")
    drawn = image.copy()
    kept = [index for index, mask in enumerate(row["masks"]) if mask["keep"] and mask["area"]]
    kept.sort(key=lambda index: -row["masks"][index]["area"])
    for place, index in enumerate(kept):
        draw_mask(drawn, row["rles"][index], row["masks"][index]["bbox"], place)
    return drawn


def draw_mask(drawn: np.ndarray, rle: bytes, bbox: Sequence[int], number: int) -> None:
    """Tint and outline one mask, with the bbox x, y, w, h, in place; `number` decides its colour."""
    height, width = drawn.shape[:2]
    x, y, w, h = (int(value) for value in bbox)
    patch = decode_patch(rle, height, width, (x, y, w, h))
    # the golden ratio spreads neighbouring hues apart
    colour = np.array(colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1.0)) * 255
    region = drawn[y : y + h, x : x + w]
    inside = patch.astype(bool)
    region[inside] = region[inside] * (1 - OPACITY) + colour * OPACITY
    contours, _ = cv2.findContours(patch, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, tuple(colour.tolist()), OUTLINE, offset=(x, y))
