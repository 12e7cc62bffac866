"""An image row at a smaller size, its masks with it."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from models.masks.rle import areas, bounding_boxes, decode_masks, encode_masks
from stages.row_masks import RowMask, mask_lists, masks_of


def smaller_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with the short side at `short_side`; an image that is no larger keeps its own."""
    scale = short_side / min(height, width)
    if scale >= 1:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_row(row: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """The row at another size: a pixel belongs to a mask if at least half of what it stands for does.

    Boxes, areas, points and crop boxes follow; masks that have no pixel left are taken out, unless they had none
    before. `parent_id` of what is left points to what is left. Embeddings, which are of the masks as they were, go.
    """
    kept: list[RowMask] = []
    for mask in masks_of(row):
        before = decode_masks([mask.rle], row["height"], row["width"])[0].astype(np.float32)
        after = cv2.resize(before, (width, height), interpolation=cv2.INTER_AREA) >= 0.5
        if after.any() or not before.any():
            kept.append(mask.redrawn(encode_masks(after[None])[0]))
    ids = {mask.fields["mask_id"] for mask in kept}
    rles = [mask.rle for mask in kept]
    scale = height / row["height"], width / row["width"]
    masks = [
        replace(mask, fields=_resize_mask(mask.fields, bbox, int(area), scale, ids))
        for mask, bbox, area in zip(kept, bounding_boxes(rles, height).tolist(), areas(rles), strict=True)
    ]
    return {**row, "height": height, "width": width, **mask_lists(masks, embedded=False)}


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
