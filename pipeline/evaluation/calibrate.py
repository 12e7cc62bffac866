"""Calibrate a model's predicted IoU on labelled images."""

from collections.abc import Iterator
from pathlib import Path

import torch

from models.training.augment import AugmentSettings, Example
from models.training.iou_head import IouFit, fit_iou_head
from models.weights import load_sam, save_sam
from pipeline.coco_labels import read_labels
from pipeline.progress import progress_bar
from pipeline.training.data import ExampleSource
from pipeline.training.sources import LabelledImages

MIN_EXAMPLES = 400  # fewer images are seen up to four times, each time otherwise scaled and cut
MAX_VIEWS = 4
VIEWS = AugmentSettings(min_scale=0.8, max_scale=1.5)


def calibrate(
    checkpoint: str,
    data: str,
    destination: Path,
    limit: int | None = None,
    image_size: int | None = None,
    quiet: bool = False,
) -> IouFit:
    """Writes the checkpoint with its IoU head fitted to a labelled set, and says what that gained; no mask changes.

    With `image_size` the weights are those for another input size, their position tables interpolated.
    Raises ValueError for wrong labels, too few of them, or an unreadable checkpoint.
    """
    labels = read_labels(data, limit=limit)
    sam, _ = load_sam(checkpoint, image_size)
    num_examples = len(labels) * min(MAX_VIEWS, -(-MIN_EXAMPLES // len(labels)))
    source = ExampleSource([LabelledImages(list(labels))], sam.config, VIEWS, seed=0, images_per_step=1)
    fit = fit_iou_head(sam, _examples(source, num_examples, quiet))
    save_sam(destination, sam, sam.config, torch.float16, {"calibrated_on": str(labels.source.name)})
    return fit


def _examples(source: ExampleSource, count: int, quiet: bool) -> Iterator[Example]:
    with progress_bar("calibrating", count, "images", quiet) as update:
        for number in range(count):
            yield from source(number)
            update(number + 1, "")
