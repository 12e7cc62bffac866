"""What CLIP sees of a mask: a square cut around its box, with what is not the mask blurred.

A blurred background keeps the context that CLIP was trained with, where a black one is known to ruin its features
(Yang et al. 2023, «Fine-Grained Visual Prompting», arXiv:2306.04356: of all visual prompts, blurring the outside of a
mask works best zero-shot).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.clip.config import ClipConfig
from models.masks.rle import decode_patch

Box = tuple[int, int, int, int]


class ViewSettings(BaseModel):
    """`scales`: sides of the views over the longer side of the mask's box; their features are averaged.
    `blur`: deviation of the background's blur over the side of the view. `fade`: how far the background moves towards
    CLIP's mean colour; 0 only blurs, which is best for published weights. `whole_size`: pixels of the side of the view
    of a whole image, as many as those of masks by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scales: Annotated[tuple[Annotated[float, Field(ge=1, le=8)], ...], Field(min_length=1)] = (1.0, 1.5)
    blur: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    fade: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_side: Annotated[int, Field(ge=1)] = 12  # pixels of the image that a view shows at least
    whole_size: Annotated[int, Field(ge=32)] | None = None


def region_view(
    image: NDArray[np.uint8], rle: bytes, bbox: Box, scale: float, settings: ViewSettings, config: ClipConfig
) -> NDArray[np.uint8]:
    """`patch_view` of a mask as COCO counts."""
    return patch_view(image, decode_patch(rle, image.shape[0], image.shape[1], bbox), bbox, scale, settings, config)


def patch_view(
    image: NDArray[np.uint8],
    patch: NDArray[np.uint8],
    bbox: Box,
    scale: float,
    settings: ViewSettings,
    config: ClipConfig,
) -> NDArray[np.uint8]:
    """One view of a mask as RGB (S, S, 3), S being `config.image_size`; not normalised yet. `cut_view` says of what."""
    view, share = (torch.from_numpy(one)[None] for one in cut_view(image, patch, bbox, scale, settings, config))
    blended: NDArray[np.uint8] = blend_views(view, share, settings, config)[0].permute(1, 2, 0).to(torch.uint8).numpy()
    return blended


def cut_view(
    image: NDArray[np.uint8],
    patch: NDArray[np.uint8],
    bbox: Box,
    scale: float,
    settings: ViewSettings,
    config: ClipConfig,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What a view shows, RGB (S, S, 3), nothing blurred yet, and how far each of its pixels is the mask's, (S, S).

    `image` is RGB (H, W, 3); `bbox` the mask's (x, y, w, h), w and h at least 1, and `patch` (h, w) its pixels there,
    0 or 1. What the view shows beyond the image is CLIP's mean colour.
    """
    height, width = image.shape[:2]
    x, y, w, h = bbox
    side = max(round(max(w, h) * scale), settings.min_side)
    left, top = x + w // 2 - side // 2, y + h // 2 - side // 2
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    around = (y0 - top, top + side - y1, x0 - left, left + side - x1)
    crop = image[y0:y1, x0:x1]
    if any(around):
        crop = cv2.copyMakeBorder(crop, *around, cv2.BORDER_CONSTANT, value=_mean_colour(config))
    mask = np.zeros((side, side), np.float32)
    mask[y - top : y - top + h, x - left : x - left + w] = patch
    size = config.image_size
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    view = cv2.resize(crop, (size, size), interpolation=how)
    share = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return view, share


def blend_views(views: Tensor, shares: Tensor, settings: ViewSettings, config: ClipConfig) -> Tensor:
    """Views (N, S, S, 3) uint8 with what is not the mask's, by `shares` (N, S, S), blurred and faded: (N, 3, S, S)
    float32, whole numbers of 0 to 255, on the device of both."""
    if len(views) > 1 and views.device.type == "cpu":  # one after the other stays in a core's cache
        pairs = zip(views.split(1), shares.split(1), strict=True)
        return torch.cat([blend_views(view, share, settings, config) for view, share in pairs])
    pixels = views.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    background = pixels
    if settings.blur:
        weights = _blur_weights(views.shape[1], settings.blur * views.shape[1]).to(views.device)
        background = weights @ pixels @ weights.T
    if settings.fade:
        mean = torch.tensor(_mean_colour(config), dtype=torch.float32, device=views.device).view(3, 1, 1)
        background = background.lerp(mean, settings.fade)
    return background.lerp(pixels, shares[:, None]).round_().clamp_(0, 255)


@lru_cache(maxsize=8)
def _blur_weights(size: int, deviation: float) -> Tensor:
    """OpenCV's Gaussian blur of a line as a matrix (size, size): at CLIP's 224 pixels two products with it take less
    than half of the filter's time on a CPU, and a GPU does them beside its other work."""
    kernel = cv2.getGaussianKernel(round(8 * deviation + 1) | 1, deviation, cv2.CV_32F)
    unit = np.eye(size, dtype=np.float32)
    return torch.from_numpy(cv2.sepFilter2D(unit, cv2.CV_32F, np.ones(1, np.float32), kernel))


def _mean_colour(config: ClipConfig) -> tuple[int, ...]:
    return tuple(round(255 * value) for value in config.pixel_mean)


def whole_view(image: NDArray[np.uint8], config: ClipConfig, size: int | None = None) -> NDArray[np.uint8]:
    """The whole image (H, W, 3) as (S, S, 3): the longer side fits, the rest is CLIP's mean colour. S is `size`, by
    default `config.image_size`.

    CLIP's own preprocessing crops the middle, which loses what stands at the sides.
    """
    height, width = image.shape[:2]
    size = size or config.image_size
    factor = size / max(height, width)
    shape = (max(1, round(height * factor)), max(1, round(width * factor)))
    view = np.empty((size, size, 3), np.uint8)
    view[:] = _mean_colour(config)
    top, left = (size - shape[0]) // 2, (size - shape[1]) // 2
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    view[top : top + shape[0], left : left + shape[1]] = cv2.resize(image, shape[::-1], interpolation=how)
    return view


def normalise_views(
    views: Sequence[NDArray[np.uint8]], config: ClipConfig, device: torch.device | None = None
) -> Tensor:
    """Views (S, S, 3) -> CLIP's input (N, 3, S, S), float32, on `device`, the CPU by default."""
    return normalise_pixels(torch.from_numpy(np.stack(views)).to(device).permute(0, 3, 1, 2).float(), config)


def normalise_pixels(pixels: Tensor, config: ClipConfig) -> Tensor:
    """(N, 3, S, S) float32, 0 to 255 -> CLIP's input."""
    mean, std = torch.tensor([config.pixel_mean, config.pixel_std], device=pixels.device).view(2, 1, 3, 1, 1)
    return (pixels / 255 - mean) / std
