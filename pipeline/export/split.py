"""Train, validation and test: near-duplicates stay together, and the same seed gives the same split."""

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

SPLITS = ("train", "val", "test")
# Near-duplicates differ in at most so many of the 64 bits of their perceptual hashes, directly or through others.
MAX_BITS = 4
_BLOCKS = MAX_BITS + 1
_ROWS_AT_ONCE = 1 << 12


def parse_shares(text: str) -> tuple[float, float, float]:
    """`80/10/10` as shares of 1. Raises ValueError for anything else."""
    try:
        train, val, test = (float(one) for one in text.split("/"))
    except ValueError:
        train = val = test = -1.0
    total = train + val + test
    if min(train, val, test) < 0 or not 0 < total < float("inf"):
        raise ValueError(f"--split: {text!r} is not train/val/test; write three shares such as 80/10/10")
    return train / total, val / total, test / total


@dataclass(frozen=True)
class Split:
    """Which split an image belongs to: by a hash of the seed and of its group's smallest perceptual hash.

    `hashes` are the images' perceptual hashes, sorted and without repeats, `groups` the smallest of each one's group.
    An image without one goes by its content. Shares are kept on average, not exactly; what is added later moves no
    image, unless it joins two groups.
    """

    shares: tuple[float, float, float]
    seed: int
    hashes: np.ndarray = field(repr=False)
    groups: np.ndarray = field(repr=False)

    def of(self, row: dict[str, Any]) -> str:
        """`train`, `val` or `test`."""
        if row["phash"] is None:
            key = row["content_sha256"] or row["image_id"]
        else:
            place = np.searchsorted(self.hashes, np.uint64(int(row["phash"], 16)))
            key = f"{int(self.groups[place]):016x}"
        digest = hashlib.sha256(f"{self.seed} {key}".encode()).digest()
        drawn = int.from_bytes(digest[:7], "big") / (1 << 56)
        return SPLITS[int(np.searchsorted(np.cumsum(self.shares)[:2], drawn, side="right"))]


def make_split(phashes: list[str], shares: tuple[float, float, float], seed: int) -> Split:
    """Groups images by their perceptual hashes (16 hex digits each)."""
    hashes = np.unique(np.array([int(one, 16) for one in phashes], np.uint64))
    return Split(shares, seed, hashes, group_hashes(hashes))


def group_hashes(hashes: np.ndarray) -> np.ndarray:
    """The smallest hash of each one's group, uint64 (N,), of sorted distinct `hashes` uint64 (N,).

    Two hashes that differ in at most MAX_BITS bits agree in one of MAX_BITS + 1 blocks of bits (the pigeonhole
    principle; Manku et al. 2007, «Detecting Near-Duplicates for Web Crawling»), so only those that share a block are
    compared.
    """
    root = np.arange(len(hashes))
    borders = np.linspace(0, 64, _BLOCKS + 1).astype(int).tolist()
    for low, high in pairwise(borders):
        block = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(block, kind="stable")
        cuts = np.flatnonzero(np.diff(block[order])) + 1
        for bucket in np.split(order, cuts):
            for first, second in _near_pairs(hashes, bucket):
                _join(root, first, second)
    return np.array([hashes[_find(root, index)] for index in range(len(hashes))], np.uint64)


def _near_pairs(hashes: np.ndarray, bucket: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of places in `bucket` whose hashes differ in at most MAX_BITS bits."""
    pairs: list[tuple[int, int]] = []
    if len(bucket) < 2:
        return pairs
    own = hashes[bucket]
    for start in range(0, len(bucket), _ROWS_AT_ONCE):
        rows = own[start : start + _ROWS_AT_ONCE]
        near = np.bitwise_count(rows[:, None] ^ own[None, :]) <= MAX_BITS
        for row, column in np.argwhere(near):
            if row + start < column:
                pairs.append((int(bucket[row + start]), int(bucket[column])))
    return pairs


def _find(root: np.ndarray, index: int) -> int:
    while root[index] != index:
        root[index] = root[root[index]]
        index = int(root[index])
    return index


def _join(root: np.ndarray, first: int, second: int) -> None:
    """The smaller place, which is the smaller hash, becomes the root of both."""
    one, other = sorted((_find(root, first), _find(root, second)))
    root[other] = one
