"""Bound how far the graph runs ahead of what is committed, which is what a kill can cost. Imported with Ray only."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any
from weakref import WeakValueDictionary

import ray
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

from pipeline.errors import RunError
from pipeline.runs.chunks import Chunk

# What an actor needs ahead of it: two blocks in hand, one that is being decoded, one that waits.
IMAGES_PER_ACTOR = 32
FIRST_STAGE = "DecodeImages"

# Ray Data copies and pickles what a dataset is configured with, so that a policy can name its window and not hold it.
_windows: "WeakValueDictionary[int, Window]" = WeakValueDictionary()


def max_in_flight(chunks: Sequence[Chunk], sam_actors: int) -> int:
    """How many images may have been begun and not be committed: two chunks, one that fills up and one that comes after,
    and what keeps the actors busy."""
    return IMAGES_PER_ACTOR * sam_actors + 2 * max(chunk.images.num_rows for chunk in chunks)


class Window:
    """One graph's: its blocks' rows in order, how many images may be in flight, how many are `committed`, and whether
    Ray Data has ever `asked`."""

    def __init__(self, block_rows: Sequence[int], max_images: int) -> None:
        self.begun = [0, *accumulate(block_rows)]  # images begun with the n-th block
        self.max_images = max_images
        self.committed = 0
        self.asked = False

    def commit(self, num_images: int) -> None:
        """Says how many images are committed by now. The policy is no public interface of Ray Data: raises RunError
        where rows came back and nobody asked, as nothing then bounds what a kill costs."""
        if not self.asked:
            raise RunError(
                f"ray {ray.__version__}: Ray Data does not ask before it begins images, so that what a kill costs has "
                "no bound; install the version that constraints.txt names"
            )
        self.committed = num_images

    def admits(self, num_blocks: int) -> bool:
        """Whether one more block may be begun after `num_blocks` of them."""
        return self.begun[min(num_blocks + 1, len(self.begun) - 1)] - self.committed <= self.max_images

    def bind(self, dataset: Any) -> None:
        """Make Ray Data's executor ask before it begins a block of `dataset`."""
        _windows[id(self)] = self
        policies = [*ENABLED_BACKPRESSURE_POLICIES, partial(InFlight, id(self))]
        dataset.context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)


class InFlight(BackpressurePolicy):
    """What the executor asks; it runs in a thread of the driver."""

    def __init__(self, window: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.window = _windows[window]

    def can_add_input(self, op: Any) -> bool:
        if FIRST_STAGE not in op.name:
            return True
        self.window.asked = True
        return self.window.admits(op.metrics.num_tasks_submitted)
