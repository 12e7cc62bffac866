"""Scores and outlines of many masks at once by whole-image operations: what a GPU does instead of `Upsampler.scan`.

Everything up to the positions at which a mask changes its value happens on the logits' device; only these and a few
numbers a mask come to the host, a block at a time and without waiting for the copy.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.generator.upsample import Upsampler

BLOCK_PIXELS = 1 << 28  # upsampled at once: 1 GiB in fp32
ROWS_AT_ONCE = 128


class DenseScan:
    """Masks of one crop, on one device."""

    def __init__(self, upsampler: Upsampler, device: torch.device) -> None:
        self.upsampler = upsampler
        self.rows, self.columns = (axis.weights.to(device) for axis in (upsampler.rows, upsampler.columns))

    def scan(
        self, logits: Tensor, mask_threshold: float, offset: float, min_stability: float
    ) -> Iterator[tuple[int, float, np.ndarray]]:
        """Index, stability score and outline of each of K masks that is not empty and reaches `min_stability`.

        logits: (K, low, low) float32 on the device. As `Upsampler.scan` has them, but an outline may hold a position
        twice where runs join, and from a GPU it may be on its way until the device is synchronised.
        """
        block = max(1, BLOCK_PIXELS // (len(self.rows) * len(self.columns)))
        for start in range(0, len(logits), block):
            full = self._upsampled(logits[start : start + block])
            inner = (full > mask_threshold + offset).sum((1, 2))
            outer = (full > mask_threshold - offset).sum((1, 2))
            stability = inner.double() / outer.clamp(min=1)
            masks = full > mask_threshold
            chosen = torch.nonzero((stability >= min_stability) & masks.flatten(1).any(1)).flatten()
            positions, lengths = _changes(masks[chosen].transpose(1, 2), self.upsampler)
            scores = stability[chosen].tolist()
            for index, score, outline in zip(chosen.tolist(), scores, positions.split(lengths.tolist()), strict=True):
                yield start + index, score, outline.numpy()

    def _upsampled(self, logits: Tensor) -> Tensor:
        """(k, low, low) -> (k, h, w). Rows next to each other read few low-resolution ones: their other weights, which
        are zero, are most of the work and are left out."""
        reads = self.upsampler.rows
        wide = logits @ self.columns.T  # (k, low, w)
        full = wide.new_empty(len(logits), len(self.rows), len(self.columns))
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, len(self.rows))
            low = slice(int(reads.first[start]), int(reads.last[stop - 1]) + 1)
            weights = self.rows[start:stop, low].expand(len(logits), -1, -1)
            torch.bmm(weights, wide[:, low], out=full[:, start:stop])
        return full


def _changes(masks: Tensor, upsampler: Upsampler) -> tuple[Tensor, Tensor]:
    """Where masks (k, w, h), columns first, change their value: positions in the whole image, one mask's after the
    other's, on the host, and how many belong to each (k,)."""
    edge = masks.new_zeros(*masks.shape[:2], 1)
    changes = torch.cat([edge, masks], dim=2) != torch.cat([masks, edge], dim=2)  # (k, w, h + 1)
    _, column, row = torch.nonzero(changes, as_tuple=True)
    positions = (column + upsampler.x0) * upsampler.height + row + upsampler.y0
    host = torch.empty(positions.shape, dtype=torch.int64, pin_memory=positions.is_cuda)
    return host.copy_(positions, non_blocking=True), changes.sum((1, 2))
