"""From a labelled image to a training example in the model's square frame.

Large-scale jitter: Ghiasi et al. 2021, arXiv:2012.07177 (resize by a random factor, then crop or pad).
"""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

MAX_SHARE = 0.9  # of the picture; a larger mask is discarded (Kirillov et al. 2023, appendix A)


class AugmentSettings(BaseModel):
    """`min_scale` and `max_scale`: the longest side, relative to the frame's. `flip`: its probability. `colour`: the
    strength of brightness, contrast, saturation and channel changes, 0 for none. `min_mask_cells`: smaller masks, in
    cells of the low-resolution mask, are discarded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_scale: Annotated[float, Field(gt=0)] = 0.5
    max_scale: Annotated[float, Field(gt=0)] = 2.0
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.3
    min_mask_cells: Annotated[int, Field(ge=1)] = 4

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentSettings":
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale} exceeds max_scale {self.max_scale}; swap them")
        return self


@dataclass(frozen=True)
class Example:
    """`image` (3, h, w) uint8 with h and w at most the frame; `masks` (N, M, M) bool of the whole frame at the
    resolution of the model's low-resolution masks; `weights` (N,) float32 say how often each is drawn, relative to the
    others; `name` says where it came from."""

    image: Tensor
    masks: Tensor
    weights: Tensor
    name: str


def augment(
    image: np.ndarray, masks: np.ndarray, frame: int, mask_size: int, rng: np.random.Generator, how: AugmentSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """image (H, W, 3) uint8, masks (N, H, W) uint8 of 0 and 1 -> picture (h, w, 3), masks (K, M, M) bool, indexes (K,).

    The picture fits the square of `frame` pixels; masks cover that square, with nothing in its padding. Masks of more
    than 90 % of the picture or fewer than `min_mask_cells` cells are left out, so K may be 0; the indexes say which of
    the N are left.
    """
    height, width = image.shape[:2]
    scale = frame / max(height, width) * np.exp(rng.uniform(np.log(how.min_scale), np.log(how.max_scale)))
    crop_height, crop_width = (max(1, min(side, round(frame / scale))) for side in (height, width))
    y0 = int(rng.integers(height - crop_height + 1))
    x0 = int(rng.integers(width - crop_width + 1))
    image = image[y0 : y0 + crop_height, x0 : x0 + crop_width]
    masks = masks[:, y0 : y0 + crop_height, x0 : x0 + crop_width]
    if rng.random() < how.flip:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    picture = fit(image, scale, frame)
    if how.colour:
        picture = jitter_colour(picture, rng, how.colour)
    return picture, *fit_masks(masks, picture.shape[:2], frame, mask_size, how.min_mask_cells)


def fit(image: np.ndarray, scale: float, frame: int) -> np.ndarray:
    """Resizes (H, W, 3) by `scale`, to between 1 and `frame` pixels a side."""
    height, width = (max(1, min(frame, round(side * scale))) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)


def fit_masks(
    masks: np.ndarray,
    picture: tuple[int, ...],
    frame: int,
    mask_size: int,
    min_cells: int,
    max_share: float = MAX_SHARE,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, H, W) of a picture that is resized to `picture` (h, w) in a `frame` -> (K, M, M) bool, M `mask_size`,
    and which of the N they are, (K,).

    A cell belongs to a mask that covers at least half of it.
    """
    cell_share = mask_size / frame
    height, width = (max(1, min(mask_size, round(side * cell_share))) for side in picture)
    # Four pixels a cell and side are enough to tell what covers half of it.
    stride = max(1, min(masks.shape[1] // height, masks.shape[2] // width) // 4)
    kept, indexes = [], []
    for index, mask in enumerate(masks[:, ::stride, ::stride]):
        share = np.count_nonzero(mask) / mask.size
        if share == 0 or share > max_share:
            continue
        small = cv2.resize(np.ascontiguousarray(mask) * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA)
        cell_mask = np.zeros((mask_size, mask_size), dtype=np.bool_)
        cell_mask[:height, :width] = small >= 128
        if cell_mask.sum() >= min_cells:
            kept.append(cell_mask)
            indexes.append(index)
    cells = np.stack(kept) if kept else np.zeros((0, mask_size, mask_size), dtype=np.bool_)
    return cells, np.array(indexes, dtype=np.int64)


def jitter_colour(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Random brightness, contrast, saturation and channel gains of (H, W, 3) uint8."""
    gain, contrast, saturation = 1 + rng.uniform(-strength, strength, 3)
    channels = gain * (1 + rng.uniform(-strength / 3, strength / 3, 3))
    pixels = image.astype(np.float32) * channels.astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + saturation * (pixels - grey)
    mean = pixels.mean()
    return np.clip(mean + contrast * (pixels - mean), 0, 255).astype(np.uint8)


def make_example(
    image: np.ndarray,
    masks: np.ndarray,
    weights: np.ndarray,
    name: str,
    frame: int,
    mask_size: int,
    rng: np.random.Generator,
    how: AugmentSettings,
) -> Example:
    """`augment` as tensors; `weights` (N,) are the masks'."""
    picture, cells, kept = augment(image, masks, frame, mask_size, rng, how)
    return _example(picture, cells, weights[kept], name)


def make_square_example(
    image: np.ndarray,
    masks: np.ndarray,
    weights: np.ndarray,
    name: str,
    frame: int,
    mask_size: int,
    rng: np.random.Generator,
    how: AugmentSettings,
) -> Example:
    """As `make_example` for a model that takes squares, as SAM 2 does: a crop, of any shape, fills the whole frame.

    Of `how`'s scales those above 1 count: the crop's sides are 1 / scale of the picture's, give or take a fifth each.
    """
    height, width = image.shape[:2]
    scale = np.exp(rng.uniform(np.log(max(1.0, how.min_scale)), np.log(max(1.0, how.max_scale))))
    lean = np.exp(rng.uniform(-0.2, 0.2))
    high, wide = min(height, max(1, round(height / scale * lean))), min(width, max(1, round(width / scale / lean)))
    y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    image, masks = image[y : y + high, x : x + wide], masks[:, y : y + high, x : x + wide]
    if rng.random() < how.flip:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    picture = cv2.resize(np.ascontiguousarray(image), (frame, frame), interpolation=cv2.INTER_AREA)
    if how.colour:
        picture = jitter_colour(picture, rng, how.colour)
    cells, kept = fit_masks(masks, picture.shape[:2], frame, mask_size, how.min_mask_cells)
    return _example(picture, cells, weights[kept], name)


def _example(picture: np.ndarray, cells: np.ndarray, weights: np.ndarray, name: str) -> Example:
    pixels = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
    return Example(pixels, torch.from_numpy(cells), torch.from_numpy(weights.astype(np.float32)), name)
