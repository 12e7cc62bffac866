"""Calibrate a model's predicted IoU on labelled images."""

from collections.abc import Iterator
from pathlib import Path

import torch

from models.evaluation.prompts import score_prompts
from models.evaluation.rescale import line_tally, rescale_predicted_iou
from models.sam.model import Sam
from models.sam2.model import Sam2
from models.sam2.weights import load_segmenter, save_sam2
from models.training.augment import AugmentSettings, Example
from models.training.iou_head import IouFit, fit_iou_head
from models.weights import save_sam
from pipeline.coco_labels import LabelledImage, read_labels, read_pixels
from pipeline.devices import own_device
from pipeline.evaluation.evaluate import all_segments
from pipeline.progress import progress_bar
from pipeline.training.data import ExampleSource
from pipeline.training.sources import LabelledImages
from stages.decode_pixels import DecodeSettings

MIN_EXAMPLES = 400  # fewer images are seen up to four times, each time otherwise scaled and cut
MAX_VIEWS = 4
VIEWS = AugmentSettings(min_scale=0.8, max_scale=1.5)
PROMPTS_PER_BATCH = 64


def calibrate(
    checkpoint: str,
    data: str,
    destination: Path,
    limit: int | None = None,
    image_size: int | None = None,
    quiet: bool = False,
) -> IouFit:
    """Writes the checkpoint with its IoU head fitted to a labelled set, and says what that gained; no mask changes.

    The head is fitted at the resolution of the model's low-resolution masks; a line for each output then brings it to
    the scale of the full one, where small masks score otherwise.
    With `image_size` the weights are those for another input size, their position tables interpolated.
    Raises ValueError for wrong labels, too few of them, or an unreadable checkpoint.
    """
    labelled = read_labels(data, limit=limit)
    labels = [image for image, _ in labelled.pictures(DecodeSettings())]
    sam = load_segmenter(checkpoint, image_size)[0].to(own_device())
    num_examples = len(labels) * min(MAX_VIEWS, -(-MIN_EXAMPLES // len(labels)))
    source = ExampleSource([LabelledImages(labels)], sam.config, VIEWS, seed=0, images_per_step=1)
    fit = fit_iou_head(sam, _examples(source, num_examples, quiet))
    _rescale(sam, labels, quiet)
    notes = {"calibrated_on": str(labelled.source.name)}
    if isinstance(sam, Sam2):
        save_sam2(destination, sam, torch.float16, notes)
    else:
        save_sam(destination, sam, sam.config, torch.float16, notes)
    return fit


def _examples(source: ExampleSource, count: int, quiet: bool) -> Iterator[Example]:
    with progress_bar("calibrating", count, "images", quiet) as update:
        for number in range(count):
            yield from source(number)
            update(number + 1, "")


def _rescale(sam: Sam | Sam2, labels: list[LabelledImage], quiet: bool) -> None:
    """Outputs 1 and more are fitted to one point a mask, output 0 to one box a mask, which is what each is for."""
    tallies = {slot: line_tally(sam) for slot in range(sam.config.num_multimask_outputs + 1)}
    with progress_bar("at full resolution", len(labels), "images", quiet) as update:
        for done, image in enumerate(labels, start=1):
            pixels = read_pixels(image, DecodeSettings())
            by_point, by_box = score_prompts(sam, pixels, all_segments(image), PROMPTS_PER_BATCH)
            for slot, tally in tallies.items():
                scores, column = (by_box, 0) if slot == 0 else (by_point, slot - 1)
                tally.add(scores.predicted_iou[:, column], scores.true_iou[:, column])
            update(done, "")
    rescale_predicted_iou(sam, {slot: tally.line() for slot, tally in tallies.items()})
