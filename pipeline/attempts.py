"""The attempt record of one run: a Ray actor of its own, which dies with none of the workers."""

from collections.abc import Sequence
from typing import Any

from stages.attempts import AttemptCounts


class RayAttempts:
    """`stages.attempts.Attempts` for the workers of one run; the counts live in an actor that needs no CPU, and which
    `close` ends."""

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # on the driver's node, so that it lives as long as the run does
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(AttemptCounts).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
        self._counts: Any = actor.remote()

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
