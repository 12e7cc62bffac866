"""Scores and outlines of masks on a CPU: the hopeless ones are ruled out together, the others scanned one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from models.generator.bounds import StabilityBound
from models.generator.upsample import Upsampler


@dataclass(frozen=True)
class StripScan:
    """Masks of one crop."""

    upsampler: Upsampler
    bound: StabilityBound

    def scan(
        self, logits: Tensor, mask_threshold: float, offset: float, min_stability: float
    ) -> Iterator[tuple[int, float, np.ndarray]]:
        """Index, stability score and outline, as `Upsampler.scan` has them, of each of K masks that is not empty and
        reaches `min_stability`; logits: (K, low, low) float32."""
        for index in np.flatnonzero(self.bound.may_reach(logits, mask_threshold, offset, min_stability)).tolist():
            stability, outline = self.upsampler.scan(logits[index], mask_threshold, offset, min_stability)
            if outline is not None:
                yield index, stability, outline
