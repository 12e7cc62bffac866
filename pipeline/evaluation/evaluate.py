"""How good a recipe's model is on a labelled set: prompted IoU, recall, best overlap, calibration."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from models.evaluation.calibration import Calibration, CalibrationTally
from models.evaluation.overlap import Overlap, best_overlaps, mean_overlap, overlap, pairwise_iou
from models.evaluation.prompts import PromptScores, score_prompts
from models.evaluation.recall import RecallTally
from models.evaluation.sizes import BySize, SizeMeans
from models.generator.candidates import Candidates
from models.generator.generate import MaskGenerator
from models.masks.rle import areas
from models.sam2.weights import load_segmenter
from pipeline.coco_labels import LabelledImage, read_labels
from pipeline.devices import own_device
from pipeline.labels.notes import Notes
from pipeline.progress import progress_bar
from pipeline.recipes.recipe import Recipe
from stages.filter_rules import filter_found
from stages.filter_settings import FilterSettings


@dataclass(frozen=True)
class Evaluation:
    """All figures are within 0..1 unless they count something; None where there was nothing to measure.

    `point_miou` and `point_miou_best` (one center point a mask) take, of the model's outputs, the one it rates best and
    the one that is best; `box_miou` is the single mask for a box; each is the mean over all labelled masks (of all
    annotators). `average_recall` (10, 100 and 1,000 masks an image) ranks the kept automatic masks by predicted IoU.
    `best_overlap` is how well those cover the labels: of each annotator, then averaged over an image's annotators,
    then over the images; `best_overlap_by_size` is the plain mean over all segments. `calibration` holds the predicted
    IoU against the true one for all outputs of the `point` prompts, those of the `box` prompts, and `all` of both.
    `notes` counts what was left out of the labels or mended, by reason.
    """

    checkpoint: str
    weights_sha256: str
    data: str
    num_images: int
    num_without_masks: int
    notes: Notes
    num_masks: dict[str, int]
    point_miou: BySize
    point_miou_best: BySize
    box_miou: BySize
    average_recall: dict[str, BySize]
    best_overlap: Overlap | None
    best_overlap_by_size: BySize
    masks_per_image: float
    most_masks: int
    calibration: dict[str, Calibration]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class EvaluationTally:
    """Adds up images; memory does not grow with their number beyond four numbers each."""

    def __init__(self) -> None:
        self.chosen, self.best, self.box, self.by_size = SizeMeans(), SizeMeans(), SizeMeans(), SizeMeans()
        self.recall = RecallTally()
        self.calibration = {name: CalibrationTally() for name in ("all", "point", "box")}
        self.overlaps: list[Overlap] = []
        self.kept_counts: list[int] = []

    def add(self, image: LabelledImage, point: PromptScores, box: PromptScores, kept: list[bytes]) -> None:
        """One image: the answers to its masks as prompts, annotator after annotator, and the automatic masks, best
        first, as COCO compressed run lengths."""
        truth_areas = areas(all_segments(image))
        self.chosen.add(point.chosen, truth_areas)
        self.best.add(point.best, truth_areas)
        self.box.add(box.chosen, truth_areas)
        for name, scores in (("all", point), ("all", box), ("point", point), ("box", box)):
            self.calibration[name].add(scores.predicted_iou, scores.true_iou)
        parts = []
        for segments in image.segments.values():
            iou, segment_areas = pairwise_iou(segments, kept, image.height, image.width), areas(segments)
            self.recall.add(iou, segment_areas)
            self.by_size.add(best_overlaps(iou), segment_areas)
            parts.append(overlap(best_overlaps(iou), segment_areas))
        if parts:
            self.overlaps.append(mean_overlap(parts))
        self.kept_counts.append(len(kept))


def evaluate(
    recipe: Recipe, data: str, images: str | None = None, limit: int | None = None, quiet: bool = False
) -> Evaluation:
    """Measures the recipe's model with its generate and filter settings on a labelled set (`read_labels` says which).

    `recipe.input` and `recipe.output` are not used. Raises ValueError for wrong labels or an unknown checkpoint.
    """
    started = time.time()
    labels = read_labels(data, images, limit)
    thresholds = recipe.filter
    # as a run has them: an agreement counts the candidates that the store floor lets through
    generator, sha256 = load_generator(recipe, recipe.min_predicted_iou, recipe.min_stability)
    sam = generator.sam
    tally, num_images = EvaluationTally(), 0
    with progress_bar("evaluating", len(labels), "images", quiet) as update:
        for num_images, (image, pixels) in enumerate(labels.pictures(recipe.decode), start=1):
            scores = score_prompts(
                sam, pixels, all_segments(image), generator.points_per_batch, recipe.generate.precision
            )
            kept = kept_masks(generator.generate([pixels])[0], thresholds)
            tally.add(image, *scores, kept)
            update(num_images, f"{sum(tally.chosen.counts().values()):,} masks")
    return Evaluation(
        checkpoint=recipe.model.checkpoint,
        weights_sha256=sha256,
        data=str(labels.source),
        num_images=num_images,
        num_without_masks=labels.num_without_masks,
        notes=labels.notes,
        num_masks=tally.chosen.counts(),
        point_miou=tally.chosen.means(),
        point_miou_best=tally.best.means(),
        box_miou=tally.box.means(),
        average_recall=tally.recall.average_recall(),
        best_overlap=mean_overlap(tally.overlaps) if tally.overlaps else None,
        best_overlap_by_size=tally.by_size.means(),
        masks_per_image=float(np.mean(tally.kept_counts)),
        most_masks=max(tally.kept_counts),
        calibration={name: one.calibration() for name, one in tally.calibration.items()},
        seconds=time.time() - started,
    )


def load_generator(recipe: Recipe, min_predicted_iou: float, min_stability: float) -> tuple[MaskGenerator, str]:
    """The recipe's generator, in this process, on the GPU if there is one and the recipe allows it, and the sha256 of
    its weights."""
    resources = recipe.resources
    if isinstance(resources.num_cpus, int):
        torch.set_num_threads(resources.num_cpus)
    device = torch.device("cpu") if resources.gpus_per_actor == 0 else own_device()
    default_points = 256 if device.type == "cuda" else 64
    points = default_points if resources.points_per_batch == "auto" else resources.points_per_batch
    crops = 1 if resources.crops_per_batch == "auto" else resources.crops_per_batch
    sam, sha256 = load_segmenter(recipe.model.checkpoint, recipe.model.image_size)
    generator = MaskGenerator(sam.to(device), recipe.generate, min_predicted_iou, min_stability, points, crops)
    return generator, sha256


def kept_masks(found: Candidates, settings: FilterSettings) -> list[bytes]:
    """The masks that the filters keep, as COCO compressed run lengths, the best rank first."""
    filtered = filter_found(found, settings)
    kept = np.flatnonzero(filtered.keep)
    return [filtered.rles[index] for index in kept[np.argsort(-filtered.rank[kept], kind="stable")]]


def all_segments(image: LabelledImage) -> list[bytes]:
    """The masks of all annotators, one annotator after the other."""
    return [rle for segments in image.segments.values() for rle in segments]
