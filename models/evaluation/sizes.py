"""Means over all objects and over small, medium and large ones."""

import numpy as np

SIZES = ("all", "small", "medium", "large")
SMALL_BELOW, LARGE_FROM = 32**2, 96**2  # pixels

BySize = dict[str, float | None]


def size_masks(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Which of N objects are of each size, bool (N,) a size, by their areas (N,) in pixels of the full image.

    Bounds as COCO's detection evaluation (`cocoeval.py`, `areaRng`): 32² and 96²; an object of exactly that many pixels
    counts with the larger ones only, where COCO counts it twice.
    """
    small, large = areas < SMALL_BELOW, areas >= LARGE_FROM
    return {"all": np.ones(len(areas), bool), "small": small, "medium": ~small & ~large, "large": large}


class SizeMeans:
    """Means of a value an object, over all objects that were added and over those of each size."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(SIZES, 0.0)
        self._counts = dict.fromkeys(SIZES, 0)

    def add(self, values: np.ndarray, areas: np.ndarray) -> None:
        """`values` (N,) and the objects' `areas` (N,) in pixels."""
        assert len(values) == len(areas), "one area a value"
        for size, chosen in size_masks(areas).items():
            self._sums[size] += float(values[chosen].sum())
            self._counts[size] += int(chosen.sum())

    def counts(self) -> dict[str, int]:
        """How many objects of each size there were."""
        return dict(self._counts)

    def means(self) -> BySize:
        """The plain mean over the objects of each size; None where there were none."""
        return {size: self._sums[size] / count if count else None for size, count in self._counts.items()}
