"""Calibrate a model's predicted IoU on labelled images."""

from pathlib import Path

import torch

from models.evaluation.prompts import score_prompts
from models.evaluation.rescale import Line, LineTally, rescale_predicted_iou
from models.weights import load_sam, save_sam
from pipeline.coco_labels import read_labels, read_pixels
from pipeline.evaluation.evaluate import all_segments
from pipeline.progress import progress_bar
from stages.decode_pixels import DecodeSettings

PROMPTS_PER_BATCH = 64


def calibrate(
    checkpoint: str,
    data: str,
    destination: Path,
    limit: int | None = None,
    image_size: int | None = None,
    quiet: bool = False,
) -> dict[int, Line]:
    """Writes the checkpoint with its predicted IoU rescaled, and returns the line of each output; no mask changes.

    With `image_size` the weights are those for another input size, their position tables interpolated.
    Outputs 1 and more are fitted to one point a mask, output 0 to one box a mask, which is what each is for.
    Raises ValueError for wrong labels or an unreadable checkpoint.
    """
    labels = read_labels(data, limit=limit)
    sam, _ = load_sam(checkpoint, image_size)
    tallies = {slot: LineTally() for slot in range(sam.config.num_multimask_outputs + 1)}
    with progress_bar("calibrating", len(labels), "images", quiet) as update:
        for done, image in enumerate(labels, start=1):
            pixels = read_pixels(image, DecodeSettings())
            by_point, by_box = score_prompts(sam, pixels, all_segments(image), PROMPTS_PER_BATCH)
            for slot, tally in tallies.items():
                scores, column = (by_box, 0) if slot == 0 else (by_point, slot - 1)
                tally.add(scores.predicted_iou[:, column], scores.true_iou[:, column])
            update(done, "")
    lines = {slot: tally.line() for slot, tally in tallies.items()}
    rescale_predicted_iou(sam, lines)
    save_sam(destination, sam, sam.config, torch.float16, {"calibrated_on": str(labels.source.name)})
    return lines
