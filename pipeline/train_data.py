"""Labelled images as training examples, in an order that is a function of (seed, step)."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models.masks.rle import decode_masks
from models.sam.config import SamConfig
from models.training.augment import AugmentSettings, Example, make_example
from pipeline.coco_labels import LabelledImage, read_labels, read_pixels
from pipeline.evaluate import all_segments
from stages.decode_pixels import DecodeSettings


@dataclass(frozen=True)
class ExampleSource:
    """Each epoch goes through all images in an order of its own; `__call__` makes the examples of one worker's part of
    a step. Every example's augmentation has its own seed, whatever was made before it."""

    images: tuple[LabelledImage, ...]
    config: SamConfig
    augment: AugmentSettings
    seed: int
    images_per_step: int
    rank: int = 0
    num_workers: int = 1

    def __call__(self, step: int) -> list[Example]:
        """Raises ValueError, naming the file, for a picture that vanished or changed."""
        first = step * self.images_per_step
        numbers = range(first + self.rank, first + self.images_per_step, self.num_workers)
        return [self._example(number) for number in numbers]

    def _example(self, number: int) -> Example:
        epoch, place = divmod(number, len(self.images))
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.images))
        image = self.images[order[place]]
        pixels = read_pixels(image, DecodeSettings())
        masks = decode_masks(all_segments(image), image.height, image.width)
        rng = np.random.default_rng([self.seed, 1, number])
        frame, mask_size = self.config.image_size, 4 * self.config.embedding_size
        return make_example(pixels, masks, str(image.path), frame, mask_size, rng, self.augment)


def read_training_images(data: tuple[str, ...]) -> tuple[LabelledImage, ...]:
    """All labelled images of several sets. Raises ValueError as `read_labels` does."""
    return tuple(image for one in data for image in read_labels(one))


def prefetch(
    source: Callable[[int], list[Example]], steps: range, depth: int = 2
) -> Iterator[tuple[int, list[Example]]]:
    """Makes the examples of `steps` in a thread, `depth` steps ahead; its exceptions are raised here."""
    ready: queue.Queue[tuple[int, list[Example]] | Exception] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[int, list[Example]] | Exception) -> None:
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
