"""An image row at a smaller size, its masks with it."""

from typing import Any

import cv2
import numpy as np

from models.masks.rle import areas, bounding_boxes, decode_masks, encode_masks


def smaller_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with the short side at `short_side`; an image that is no larger keeps its own."""
    scale = short_side / min(height, width)
    if scale >= 1:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_row(row: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """The row at another size: a pixel belongs to a mask if at least half of what it stands for does.

    Boxes, areas, points and crop boxes follow; masks that have no pixel left are taken out, unless they had none
    before. `parent_id` of what is left points to what is left.
    """
    kept: list[int] = []
    rles: list[bytes] = []
    for index, rle in enumerate(row["rles"]):
        before = decode_masks([rle], row["height"], row["width"])[0].astype(np.float32)
        after = cv2.resize(before, (width, height), interpolation=cv2.INTER_AREA) >= 0.5
        if after.any() or not before.any():
            kept.append(index)
            rles += encode_masks(after[None])
    ids = {row["masks"][index]["mask_id"] for index in kept}
    boxes = bounding_boxes(rles, height).tolist()
    masks = [
        _resize_mask(row["masks"][index], bbox, int(area), (height / row["height"], width / row["width"]), ids)
        for index, bbox, area in zip(kept, boxes, areas(rles), strict=True)
    ]
    size = {"height": height, "width": width}
    return {**row, **size, "masks": masks, "rles": rles, "raw_rles": [None] * len(rles)}


def _resize_mask(
    mask: dict[str, Any], bbox: list[int], area: int, scale: tuple[float, float], ids: set[str]
) -> dict[str, Any]:
    down, across = scale
    changed: dict[str, Any] = {"bbox": bbox, "area": area}
    if mask["point"] is not None:
        changed["point"] = [mask["point"][0] * across, mask["point"][1] * down]
    if mask["crop_box"] is not None:
        changed["crop_box"] = [round(one * by) for one, by in zip(mask["crop_box"], (across, down) * 2, strict=True)]
    if mask["parent_id"] not in ids:
        changed["parent_id"] = None
    return {**mask, **changed}
