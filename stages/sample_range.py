"""Samples of more than 8 bits, or of less, as 8-bit ones."""

import numpy as np

SampleRange = tuple[float, float]

_ROWS_AT_ONCE = 256  # that stand in memory as floating point


def scaled(samples: np.ndarray, bit_depth: int, sample_range: SampleRange | None) -> np.ndarray:
    """`samples` (H, W, …) as uint8: of `sample_range` the first value becomes 0 and the second 255, and what lies
    outside is clipped (what is no number counts as the first); without it the upper 8 of their `bit_depth` bits."""
    if sample_range is None:
        if bit_depth >= 8:
            return (samples >> (bit_depth - 8)).clip(0, 255).astype(np.uint8)
        return (samples.astype(np.uint16) * 255 // ((1 << bit_depth) - 1)).astype(np.uint8)
    low, high = sample_range
    out = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), _ROWS_AT_ONCE):
        some = np.nan_to_num(samples[start : start + _ROWS_AT_ONCE].astype(np.float64), nan=low)
        out[start : start + _ROWS_AT_ONCE] = np.rint(((some - low) * (255 / (high - low))).clip(0, 255))
    return out
