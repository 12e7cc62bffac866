"""`--shard i/n`: a fixed part of the input and of a round's part numbers, for batch systems without Ray."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

IDS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Shard:
    """The `number`-th (from 1) of `count`. Images go by their id, so that a shard is the same whatever else is listed
    and in whatever order; parts go by their number, so that no two shards ever write the same file."""

    number: int
    count: int

    def take(self, listing: pa.Table) -> pa.Table:
        ids = listing["image_id"]
        keep = np.fromiter(self._takes(ids), bool, len(ids))
        return listing.filter(pa.array(keep))

    def _takes(self, ids: pa.ChunkedArray) -> Iterator[bool]:
        for start in range(0, len(ids), IDS_AT_ONCE):
            for image_id in ids.slice(start, IDS_AT_ONCE).to_pylist():
                # of all 64 bits a good hash: sums and CRCs put names that differ in one digit into one shard
                digest = hashlib.blake2b(image_id.encode(), digest_size=8).digest()
                yield int.from_bytes(digest, "big") % self.count == self.number - 1

    def owns(self, part: int) -> bool:
        return part % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def part_after(part: int, shard: Shard | None) -> int:
    """The next part number after `part` (-1 for the first of all) that a round, or one shard of it, may write."""
    if shard is None:
        return part + 1
    return shard.number - 1 if part < shard.number - 1 else part + shard.count


def parse_shard(text: str) -> Shard:
    """`i/n` with 1 ≤ i ≤ n. Raises ValueError for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    shard = Shard(int(found[1]), int(found[2])) if found else None
    if shard is None or not 1 <= shard.number <= shard.count:
        raise ValueError(f"--shard {text!r}: write it as i/n with i from 1 to n, such as --shard 1/4 … --shard 4/4")
    return shard
