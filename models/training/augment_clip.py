"""From a labelled clip to a training example: which frames, which objects, and one change of view for all frames."""

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.training.augment import jitter_colour
from models.training.clip_pass import ClipExample

MIN_CELLS = 8  # of the low-resolution mask, that the first frame must show of an object


class ClipSampling(BaseModel):
    """`num_frames` of a clip, up to `max_stride` apart, in half of the cases backwards; `max_objects` of those that the
    first of them shows. All frames alike are cropped to `min_scale` of the sides or more, with up to `max_squeeze` (a
    factor) between width and height, mirrored, and changed in colour by `colour`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_frames: Annotated[int, Field(ge=1)] = 6
    max_stride: Annotated[int, Field(ge=1)] = 4
    max_objects: Annotated[int, Field(ge=1)] = 4
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.65
    max_squeeze: Annotated[float, Field(ge=1)] = 1.35
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.3


def choose_frames(length: int, rng: np.random.Generator, how: ClipSampling) -> list[int]:
    """Which frames of a clip of `length` to show, in this order; all where it is too short."""
    count = min(how.num_frames, length)
    most = how.max_stride if count == 1 else min(how.max_stride, (length - 1) // (count - 1))
    stride = int(rng.integers(1, most + 1))
    first = int(rng.integers(length - (count - 1) * stride))
    frames = [first + stride * place for place in range(count)]
    return frames[::-1] if rng.random() < 0.5 else frames


def augment_clip(
    frames: Sequence[np.ndarray],
    masks: np.ndarray,
    name: str,
    size: int,
    mask_size: int,
    rng: np.random.Generator,
    how: ClipSampling,
) -> ClipExample:
    """frames: T of (H, W, 3) uint8; masks: (T, O, H, W) bool. The example is `size` pixels a side; O may be 0.

    Objects are drawn by the root of their area, those more often that are covered or leave later on.
    """
    height, width = masks.shape[2:]
    scale = rng.uniform(how.min_scale, 1.0)
    squeeze = np.exp(rng.uniform(-1.0, 1.0) * np.log(how.max_squeeze) / 2)
    high, wide = min(height, round(height * scale * squeeze)), min(width, round(width * scale / squeeze))
    y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    masks = masks[:, :, y : y + high, x : x + wide]
    areas = masks.sum(axis=(2, 3))  # (T, O)
    shown = np.flatnonzero(areas[0] >= MIN_CELLS * high * wide / mask_size**2)
    masks = masks[:, _draw(shown, areas, rng, how.max_objects)]
    flipped, colours = rng.random() < how.flip, int(rng.integers(1 << 31))
    pictures, squares = [], []
    for frame, some in zip(frames, masks, strict=True):
        picture = cv2.resize(frame[y : y + high, x : x + wide], (size, size), interpolation=cv2.INTER_AREA)
        if how.colour:
            picture = jitter_colour(picture, np.random.default_rng(colours), how.colour)
        square = np.zeros((len(some), size, size), dtype=np.bool_)
        for index, mask in enumerate(some):
            square[index] = cv2.resize(mask.view(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
        pictures.append(picture[:, ::-1] if flipped else picture)
        squares.append(square[:, :, ::-1] if flipped else square)
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return ClipExample(pixels, torch.from_numpy(np.stack(squares)), name)


def _draw(shown: np.ndarray, areas: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    if not len(shown):
        return shown
    first = areas[0, shown]
    chance = np.sqrt(first) * np.where(areas[:, shown].min(axis=0) < 0.4 * first, 3.0, 1.0)
    return np.sort(rng.choice(shown, min(count, len(shown)), replace=False, p=chance / chance.sum()))
