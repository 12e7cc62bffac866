"""What the workers of one run ask about near-duplicates: a Ray actor that knows the round's originals."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.ray_runtime import driver_actor
from pipeline.store.rounds import Round
from stages.near_duplicates import SeenImages


class RayNearDuplicates:
    """`stages.near_duplicates.NearDuplicates` for the workers of one run; `close` ends the actor."""

    def __init__(self, originals: dict[str, str]) -> None:
        self._seen: Any = driver_actor(SeenImages, originals)

    def original(self, image_id: str, phash: str) -> str | None:
        import ray

        found: str | None = ray.get(self._seen.original.remote(image_id, phash))
        return found

    def close(self) -> None:
        import ray

        ray.kill(self._seen)


def committed_originals(target: Round, redone: pa.ChunkedArray) -> dict[str, str]:
    """Perceptual hashes by image id of the round's images that repeat none, without those that are `redone`."""
    names = ["image_id", "phash", "duplicate_of"]
    found: dict[str, str] = {}
    for part in target.parts():
        rows = target.read_part(part, names)
        is_original = pc.and_(pc.is_valid(rows["phash"]), pc.is_null(rows["duplicate_of"]))
        is_redone = pc.is_in(rows["image_id"], value_set=redone.combine_chunks())
        rows = rows.filter(pc.and_not(is_original, is_redone))
        found |= dict(zip(rows["image_id"].to_pylist(), rows["phash"].to_pylist(), strict=True))
    return found
