"""Train, validation and test: near-duplicates stay together, and what an export has assigned stays as it is."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.errors import RunError

SPLITS = ("train", "val", "test")
# Near-duplicates differ in at most so many of the 64 bits of their perceptual hashes, directly or through others.
MAX_BITS = 4
_BLOCKS = MAX_BITS + 1
_ROWS_AT_ONCE = 1 << 10
_EDGES_AT_ONCE = 1 << 20


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
    """Which split an image belongs to.

    `hashes` are perceptual hashes, sorted and without repeats, `assigned` the place in SPLITS of each one's group. An
    image without a hash goes by its content, which no other image can change.
    """

    shares: tuple[float, float, float]
    seed: int
    hashes: np.ndarray = field(repr=False)
    assigned: np.ndarray = field(repr=False)

    def of(self, row: dict[str, Any]) -> str:
        """`train`, `val` or `test`. Raises RunError for a perceptual hash that the split does not know."""
        if row["phash"] is None:
            return SPLITS[_draw(self.shares, self.seed, row["content_sha256"] or row["image_id"])]
        wanted = np.uint64(int(row["phash"], 16))
        place = int(np.searchsorted(self.hashes, wanted))
        if place == len(self.hashes) or self.hashes[place] != wanted:
            raise RunError(f"{row['image_id']} changed while the dataset was exported; run the same export again")
        return SPLITS[int(self.assigned[place])]

    def places(self, hashes: np.ndarray) -> np.ndarray:
        """The places in SPLITS of `hashes` uint64 (N,), all of which are assigned; uint8 (N,)."""
        return self.assigned[np.searchsorted(self.hashes, hashes)]


def make_split(hashes: np.ndarray, shares: tuple[float, float, float], seed: int, before: Split | None = None) -> Split:
    """Assigns groups of near-duplicates among `hashes` uint64 (N,) and those of `before`, which stay known.

    A group that `before` knows keeps its split; where a newcomer joins groups of several splits, all of it goes to the
    first of them in the order train, val, test, so that nothing that was trained on comes to be validated or tested
    with. Any other group is drawn by a hash of the seed and its smallest perceptual hash; shares are kept on average.
    """
    known = np.zeros(0, np.uint64) if before is None else before.hashes
    hashes = np.unique(np.concatenate([hashes.astype(np.uint64), known]))
    groups, group_of = np.unique(group_hashes(hashes), return_inverse=True)
    none = len(SPLITS)
    assigned = np.full(len(groups), none, np.uint8)
    if before is not None:
        np.minimum.at(assigned, group_of[np.searchsorted(hashes, before.hashes)], before.assigned)
    for place in np.flatnonzero(assigned == none).tolist():
        assigned[place] = _draw(shares, seed, f"{int(groups[place]):016x}")
    return Split(shares, seed, hashes, assigned[group_of])


def _draw(shares: tuple[float, float, float], seed: int, key: str) -> int:
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    drawn = int.from_bytes(digest[:7], "big") / (1 << 56)
    return int(np.searchsorted(np.cumsum(shares)[:2], drawn, side="right"))


def group_hashes(hashes: np.ndarray) -> np.ndarray:
    """The smallest hash of each one's group, uint64 (N,), of sorted distinct `hashes` uint64 (N,).

    Two hashes that differ in at most MAX_BITS bits agree in one of MAX_BITS + 1 blocks of bits (the pigeonhole
    principle; Manku et al. 2007, «Detecting Near-Duplicates for Web Crawling»), so only those that share a block are
    compared.
    """
    labels = np.arange(len(hashes))
    edges: list[np.ndarray] = []
    num_edges = 0
    borders = np.linspace(0, 64, _BLOCKS + 1).astype(int).tolist()
    for low, high in pairwise(borders):
        block = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(block, kind="stable")
        cuts = np.flatnonzero(np.diff(block[order])) + 1
        for bucket in np.split(order, cuts):
            for some in _near_pairs(hashes, bucket):
                edges.append(some)
                num_edges += len(some)
                if num_edges >= _EDGES_AT_ONCE:
                    labels, edges, num_edges = _join(labels, np.concatenate(edges)), [], 0
    if edges:
        labels = _join(labels, np.concatenate(edges))
    return hashes[labels]


def _near_pairs(hashes: np.ndarray, bucket: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (N, 2) of places in `bucket` whose hashes differ in at most MAX_BITS bits."""
    if len(bucket) < 2:
        return
    own = hashes[bucket]
    for start in range(0, len(bucket), _ROWS_AT_ONCE):
        rows = own[start : start + _ROWS_AT_ONCE]
        near = np.argwhere(np.bitwise_count(rows[:, None] ^ own[None, :]) <= MAX_BITS)
        near[:, 0] += start
        yield bucket[near[near[:, 0] < near[:, 1]]]


def _join(labels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Labels in which both ends of each edge have the smallest place of their group."""
    while True:
        ends = np.sort(labels[edges], axis=1)
        open_edges = ends[:, 0] != ends[:, 1]
        if not open_edges.any():
            return labels
        edges, ends = edges[open_edges], ends[open_edges]
        np.minimum.at(labels, ends[:, 1], ends[:, 0])
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
