"""Labelled images as training examples, in an order that is a function of (seed, step)."""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np

from models.masks.rle import decode_masks
from models.sam.config import SamConfig
from models.sam2.config import Sam2Config
from models.training.augment import AugmentSettings, Example, make_example, make_square_example
from pipeline.training.sources import TrainingImages

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class ExampleSource:
    """Each epoch goes through all images, those of a set as often as `repeats` says, in an order of its own; `__call__`
    makes the examples of one worker's part of a step. Every example's augmentation has its own seed, whatever was made
    before it. A SAM 2's examples fill its square."""

    sets: list[TrainingImages]
    config: SamConfig | Sam2Config
    augment: AugmentSettings
    seed: int
    images_per_step: int
    rank: int = 0
    num_workers: int = 1
    repeats: Sequence[int] | None = None  # once each
    ends: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        repeats = [1] * len(self.sets) if self.repeats is None else self.repeats
        object.__setattr__(
            self, "ends", np.cumsum([len(one) * many for one, many in zip(self.sets, repeats, strict=True)])
        )

    def __call__(self, step: int) -> list[Example]:
        """Raises ValueError, naming the file, for a picture that vanished or changed."""
        first = step * self.images_per_step
        numbers = range(first + self.rank, first + self.images_per_step, self.num_workers)
        return [self.example(number) for number in numbers]

    def example(self, number: int) -> Example:
        """The example of this number, from 0 on, epoch after epoch."""
        num_images = int(self.ends[-1])
        epoch, place = divmod(number, num_images)
        index = int(epoch_order(self.seed, epoch, num_images)[place])
        chosen = int(np.searchsorted(self.ends, index, side="right"))
        images = self.sets[chosen]
        image = images.read((index - int(self.ends[chosen])) % len(images))
        masks = decode_masks(image.rles, *image.pixels.shape[:2])
        rng = np.random.default_rng([self.seed, 1, number])
        frame, mask_size = self.config.image_size, 4 * self.config.embedding_size
        make = make_square_example if isinstance(self.config, Sam2Config) else make_example
        return make(image.pixels, masks, image.weights, image.name, frame, mask_size, rng, self.augment)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(num_images)


def prefetch(source: Callable[[int], Batch], steps: range, depth: int = 2) -> Generator[tuple[int, Batch], None, None]:
    """Makes the data of `steps` in a thread, `depth` steps ahead; its exceptions are raised here."""
    ready: queue.Queue[tuple[int, Batch] | Exception] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[int, Batch] | Exception) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put((step, source(step)))
        except Exception as error:  # any file may be broken in any way: the training loop decides
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
