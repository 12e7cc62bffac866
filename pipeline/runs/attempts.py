"""The attempt record of one run: a Ray actor of its own, which dies with none of the workers."""

from collections.abc import Sequence
from typing import Any

from pipeline.runs.ray_runtime import driver_actor
from stages.attempts import AttemptCounts


class RayAttempts:
    """`stages.attempts.Attempts` for the workers of one run; the counts live in an actor that needs no CPU, and which
    `close` ends."""

    def __init__(self) -> None:
        self._counts = driver_actor(AttemptCounts)

    def counts(self, image_ids: Sequence[str]) -> list[int]:
        return self._ask("counts", image_ids)

    def begin(self, image_ids: Sequence[str]) -> list[int]:
        return self._ask("begin", image_ids)

    def done(self, image_ids: Sequence[str]) -> None:
        self._ask("done", image_ids)

    def close(self) -> None:
        import ray

        ray.kill(self._counts)

    def _ask(self, method: str, image_ids: Sequence[str]) -> Any:
        import ray

        return ray.get(getattr(self._counts, method).remote(list(image_ids)))
