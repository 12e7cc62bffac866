"""An upper bound of a mask's stability score from a coarse grid, so that most failing masks are never upsampled.

Bilinear interpolation gives each pixel a convex combination of the few grid values that it reads, so it lies between
their least and their greatest. Counting with these two, for the pixels that read the same values all at once, gives at
least the mask's pixels above the higher of the score's thresholds, and at most those above the lower one.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.generator.upsample import Axis

# Interpolation weights are rounded, and an input position may be off by a rounding too. Both move a value by far less
# than this share of the mask's greatest one.
SLACK = 1e-3
MIN_PIXELS_PER_CELL = 8  # with fewer, counting the pixels themselves takes little longer
BLOCK_ENTRIES = 1 << 20


@dataclass(frozen=True)
class Windows:
    """One axis: `pixels[i]` image positions read grid positions `first[i]` to `last[i]` and no others; (n,) each."""

    first: np.ndarray
    last: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, last: np.ndarray) -> "Windows":
        """From what each image position reads, ascending."""
        begins = np.flatnonzero(np.diff(first, prepend=-1) | np.diff(last, prepend=-1))
        return cls(first[begins], last[begins], np.diff(begins, append=len(first)))

    @classmethod
    def between(cls, valid: int, length: int) -> "Windows":
        """Of a bilinear resize from `valid` positions to `length`: the two neighbours of each."""
        place = (np.arange(length) + 0.5) * (valid / length) - 0.5
        first = np.clip(place.astype(np.int64), 0, valid - 1)
        return cls.of(first, np.minimum(first + 1, valid - 1))

    @property
    def width(self) -> int:
        return int((self.last - self.first).max()) + 1


@dataclass(frozen=True)
class StabilityBound:
    """Bounds masks of one crop by their low-resolution logits and, where that leaves it open, by the logits at the
    model's input size, `image_size`, of which `valid` (height, width) remain without padding."""

    low: tuple[Windows, Windows]
    input: tuple[Windows, Windows]
    image_size: int
    valid: tuple[int, int]

    @classmethod
    def of(cls, rows: Axis, columns: Axis, image_size: int, valid: tuple[int, int]) -> "StabilityBound":
        """Of the masks that `rows` and `columns` upsample."""
        return cls(
            low=(Windows.of(rows.first, rows.last), Windows.of(columns.first, columns.last)),
            input=(Windows.between(valid[0], len(rows.first)), Windows.between(valid[1], len(columns.first))),
            image_size=image_size,
            valid=valid,
        )

    def may_reach(self, logits: Tensor, mask_threshold: float, offset: float, min_stability: float) -> np.ndarray:
        """Which of K masks, logits (K, low, low) float32 on the CPU, may score `min_stability` or more; bool (K,)."""
        thresholds = (mask_threshold + offset, mask_threshold - offset)
        open_masks = np.arange(len(logits))
        for grid, windows in enumerate((self.low, self.input)):
            num_cells = windows[0].last[-1] * windows[1].last[-1]
            if windows[0].pixels.sum() * windows[1].pixels.sum() < MIN_PIXELS_PER_CELL * num_cells:
                break
            block = max(1, BLOCK_ENTRIES // max(1, num_cells))
            upper = [np.zeros(0)]
            for start in range(0, len(open_masks), block):
                values = logits[open_masks[start : start + block]][None]  # (1, K, low, low)
                values = values.contiguous(memory_format=torch.channels_last)  # masks innermost: fast to pick cells
                if grid:
                    values = F.interpolate(values, (self.image_size,) * 2, mode="bilinear", align_corners=False)
                    values = values[..., : self.valid[0], : self.valid[1]]
                upper.append(_upper_bound(values[0].permute(1, 2, 0).numpy(), *windows, *thresholds))
            open_masks = open_masks[np.concatenate(upper) >= min_stability]
        return np.isin(np.arange(len(logits)), open_masks)


def _upper_bound(values: np.ndarray, rows: Windows, columns: Windows, higher: float, lower: float) -> np.ndarray:
    """Of K masks' stability, values (n, m, K): float64 (K,), infinite where the lower count may be 0."""
    slack = SLACK * np.maximum(values.max(axis=(0, 1)), -values.min(axis=(0, 1)))
    inner = _count(_windowed(values > higher - slack, rows, columns, np.logical_or), rows, columns)
    outer = _count(_windowed(values > lower + slack, rows, columns, np.logical_and), rows, columns)
    return np.divide(inner, outer, out=np.full(len(inner), np.inf), where=outer > 0)


def _windowed(flags: np.ndarray, rows: Windows, columns: Windows, combine: np.ufunc) -> np.ndarray:
    """`combine` over every window of rows and columns: bool (n, m, K) -> (rows, columns, K)."""
    for axis, windows in ((0, rows), (1, columns)):
        found = flags.take(windows.first, axis)
        for step in range(1, windows.width):
            combine(found, flags.take(np.minimum(windows.first + step, windows.last), axis), out=found)
        flags = found
    return flags


def _count(flags: np.ndarray, rows: Windows, columns: Windows) -> np.ndarray:
    """Image pixels that `flags` (rows, columns, K) stand for: float64 (K,). A row's sum is exact in float32."""
    by_row = torch.from_numpy(columns.pixels).float() @ torch.from_numpy(flags).float()  # (rows, K)
    return (torch.from_numpy(rows.pixels).double() @ by_row.double()).numpy()
