"""From one low-resolution mask to its pixels in the image, without ever holding more than a strip of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.masks.rle import join_transitions, transitions

STRIP_PIXELS = 1 << 17  # fits the cache, and reads few low-resolution columns


def axis_weights(low_size: int, image_size: int, valid: int, length: int) -> Tensor:
    """The two bilinear resizes of the published code along one axis, as one matrix.

    Segment-anything's `Sam.postprocess_masks` resizes low-resolution logits (`low_size`) to the model's input
    (`image_size`), cuts the padding off (`valid` remain) and resizes to the image (`length`). Both steps are linear and
    separable, so full = rows @ low @ columns.T with one such matrix an axis. Returns (length, low_size) float32; at
    most four neighbouring entries of a row are not zero.
    """
    basis = torch.eye(low_size)[None]  # (1, low, low): each channel one unit vector
    padded = F.interpolate(basis, size=image_size, mode="linear", align_corners=False)
    return F.interpolate(padded[..., :valid], size=length, mode="linear", align_corners=False)[0].T.contiguous()


@dataclass(frozen=True)
class Axis:
    """One axis' weights, and for each output position the first and last low-resolution position it reads."""

    weights: Tensor  # (length, low_size)
    first: np.ndarray  # (length,), ascending
    last: np.ndarray

    @classmethod
    def of(cls, low_size: int, image_size: int, valid: int, length: int) -> "Axis":
        weights = axis_weights(low_size, image_size, valid, length)
        reads = (weights != 0).numpy()
        return cls(weights, reads.argmax(1), low_size - 1 - reads[:, ::-1].argmax(1))

    def span(self, low: int, high: int) -> tuple[int, int, int, int]:
        """Output positions [start, stop) that read any of low..high, and the positions [a, b) that those read."""
        start = int(np.searchsorted(self.last, low, "left"))
        stop = int(np.searchsorted(self.first, high, "right"))
        if start >= stop:
            return 0, 0, 0, 0
        return start, stop, int(self.first[start]), int(self.last[stop - 1]) + 1


@dataclass(frozen=True)
class Upsampler:
    """Upsamples masks of one crop of an image of `height` pixels; the crop's corner stands at (x0, y0)."""

    rows: Axis
    columns: Axis
    x0: int
    y0: int
    height: int

    def scan(
        self, logits: Tensor, mask_threshold: float, offset: float, min_stability: float
    ) -> tuple[float, np.ndarray | None]:
        """Stability score and outline of one mask.

        `logits` (low, low) float32. Interpolated values are convex combinations, so nothing outside the pixels that
        read a logit above `mask_threshold - offset` can count; only that rectangle is computed, in strips of columns.
        Returns the stability score (segment-anything `calculate_stability_score`: |above threshold + offset| over
        |above threshold - offset|, here 0 for an empty mask) and the positions at which the column-major mask of the
        whole image changes value, or None for a mask that is empty or below `min_stability`.
        """
        reached = logits.numpy() > mask_threshold - offset
        low_rows, low_columns = np.flatnonzero(reached.any(1)), np.flatnonzero(reached.any(0))
        if len(low_rows) == 0:
            return 0.0, None
        top, bottom, row_a, row_b = self.rows.span(int(low_rows[0]), int(low_rows[-1]))
        left, right, column_a, column_b = self.columns.span(int(low_columns[0]), int(low_columns[-1]))
        if top >= bottom or left >= right:  # everything lies in the padding
            return 0.0, None
        tall = self.rows.weights[top:bottom, row_a:row_b] @ logits[row_a:row_b, column_a:column_b]
        inner = outer = 0
        pieces = []
        for start, stop in _strips(left, right, bottom - top):
            # numpy compares and counts about ten times as fast as torch does
            a, b = int(self.columns.first[start]), int(self.columns.last[stop - 1]) + 1
            full = (tall[:, a - column_a : b - column_a] @ self.columns.weights[start:stop, a:b].T).numpy()
            inner += int(np.count_nonzero(full > mask_threshold + offset))
            outer += int(np.count_nonzero(full > mask_threshold - offset))
            pieces.append(transitions(full > mask_threshold, self.x0 + start, self.y0 + top, self.height))
        stability = inner / outer if outer else 0.0
        outline = join_transitions(pieces)
        return stability, outline if len(outline) and stability >= min_stability else None


def _strips(left: int, right: int, height: int) -> Iterator[tuple[int, int]]:
    width = max(1, STRIP_PIXELS // height)
    for start in range(left, right, width):
        yield start, min(right, start + width)
