"""Near-duplicates by perceptual hash, found as images come by."""

from array import array
from collections.abc import Mapping
from typing import Protocol

import numpy as np

# Near-duplicates differ in at most so many of the 64 bits of their perceptual hashes.
MAX_BITS = 4
_BLOCK_BITS = (13, 13, 13, 13, 12)  # one more block than MAX_BITS


class NearDuplicates(Protocol):
    """`original` says which image, met earlier, this one nearly repeats. None makes it an original itself, and so it
    stays when it is asked about again, as when its worker died."""

    def original(self, image_id: str, phash: str) -> str | None: ...


class SeenImages:
    """The originals met so far, in this process. About 300 bytes an original.

    Hashes that differ in at most MAX_BITS bits agree in one of MAX_BITS + 1 blocks of bits (the pigeonhole principle;
    Manku et al. 2007, «Detecting Near-Duplicates for Web Crawling»), so a hash is compared with those only that share a
    block.
    """

    def __init__(self, originals: Mapping[str, str] | None = None) -> None:
        """`originals`: perceptual hash (16 hex digits) by image id, of those known from the start."""
        self._image: dict[int, str] = {}
        self._blocks: list[dict[int, array[int]]] = [{} for _ in _BLOCK_BITS]
        for image_id, phash in (originals or {}).items():
            self._add(int(phash, 16), image_id)

    def original(self, image_id: str, phash: str) -> str | None:
        value = int(phash, 16)
        found = self._nearest(value)
        if found is None:
            self._add(value, image_id)
            return None
        return None if self._image[found] == image_id else self._image[found]

    def _nearest(self, value: int) -> int | None:
        """The nearest original's hash, the smallest of several."""
        if value in self._image:
            return value
        best: tuple[int, int] | None = None
        for bucket in filter(None, self._buckets(value)):
            hashes = np.frombuffer(bucket, np.uint64)
            distances = np.bitwise_count(hashes ^ np.uint64(value))
            closest = int(distances.min())
            if closest <= MAX_BITS:
                found = closest, int(hashes[distances == closest].min())
                best = found if best is None else min(best, found)
        return None if best is None else best[1]

    def _add(self, value: int, image_id: str) -> None:
        if self._image.setdefault(value, image_id) == image_id:
            for bucket in self._buckets(value):
                bucket.append(value)

    def _buckets(self, value: int) -> list["array[int]"]:
        """One list of hashes a block, those that agree with `value` in it; made where there is none yet."""
        buckets = []
        for bits, block in zip(_BLOCK_BITS, self._blocks, strict=True):
            buckets.append(block.setdefault(value & ((1 << bits) - 1), array("Q")))
            value >>= bits
        return buckets
