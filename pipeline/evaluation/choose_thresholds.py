"""The thresholds at which a model's masks cover a labelled set best, found by trying them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.evaluation.overlap import best_overlaps, overlap, pairwise_iou
from models.generator.candidates import Candidates
from models.masks.rle import areas
from pipeline.coco_labels import LabelledImage, read_labels
from pipeline.evaluation.evaluate import load_generator
from pipeline.labels.notes import Notes
from pipeline.progress import progress_bar
from pipeline.recipes.recipe import Recipe
from stages.filter_rules import filter_found
from stages.filter_settings import FilterSettings

PREDICTED_IOU_GRID = tuple(step / 50 for step in range(50))
STABILITY_GRID = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.95, 0.97)


@dataclass(frozen=True)
class Trial:
    """One pair of thresholds: area-weighted best overlap, averaged over an image's annotators, then over the images;
    the mean number of kept masks an image and the largest."""

    pred_iou_thresh: float
    stability_score_thresh: float
    area_weighted_best: float
    masks_per_image: float
    most_masks: int


@dataclass(frozen=True)
class ThresholdChoice:
    """The chosen pair, and all that were tried; `notes` counts what was left out of the labels or mended, by reason."""

    chosen: Trial
    num_images: int
    notes: Notes
    trials: list[Trial]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def choose_thresholds(
    recipe: Recipe,
    data: str,
    images: str | None = None,
    limit: int | None = None,
    max_masks: float = 300,
    quiet: bool = False,
) -> ThresholdChoice:
    """Tries a grid of `filter.pred_iou_thresh` and `filter.stability_score_thresh` on a labelled set.

    Candidates are generated once an image, without thresholds; the recipe's other filters apply at every pair. Raises
    ValueError for wrong labels, and if no pair keeps as few as `max_masks` masks an image.
    """
    labels = read_labels(data, images, limit)
    generator, _ = load_generator(recipe, 0.0, 0.0)
    shape = (len(STABILITY_GRID), len(PREDICTED_IOU_GRID))
    covered, counts, most = np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    num_images = 0
    with progress_bar("trying thresholds", len(labels), "images", quiet) as update:
        for num_images, (image, pixels) in enumerate(labels.pictures(recipe.decode), start=1):
            found = generator.generate([pixels])[0]
            image_covered, image_counts = try_thresholds(image, found, recipe.filter)
            covered += image_covered
            counts += image_counts
            most = np.maximum(most, image_counts)
            update(num_images, f"{len(found):,} candidates in the last one")
    trials = [
        Trial(
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_thresh,
            area_weighted_best=float(covered[row, column] / num_images),
            masks_per_image=float(counts[row, column] / num_images),
            most_masks=int(most[row, column]),
        )
        for row, stability_thresh in enumerate(STABILITY_GRID)
        for column, pred_iou_thresh in enumerate(PREDICTED_IOU_GRID)
    ]
    return ThresholdChoice(best_trial(trials, max_masks), num_images, labels.notes, trials)


def best_trial(trials: Sequence[Trial], max_masks: float) -> Trial:
    """The highest `area_weighted_best` among those with at most `max_masks` masks an image on average; of equal ones
    the fewest masks, then the stricter thresholds. Raises ValueError if none keeps as few."""
    allowed = [trial for trial in trials if trial.masks_per_image <= max_masks]
    if not allowed:
        fewest = min(trial.masks_per_image for trial in trials)
        raise ValueError(
            f"max_masks: every pair of thresholds keeps more than {max_masks:g} masks an image; allow {fewest:g}"
        )
    return max(
        allowed,
        key=lambda trial: (
            trial.area_weighted_best,
            -trial.masks_per_image,
            trial.pred_iou_thresh,
            trial.stability_score_thresh,
        ),
    )


def try_thresholds(image: LabelledImage, found: Candidates, settings: FilterSettings) -> tuple[np.ndarray, np.ndarray]:
    """Area-weighted best overlap, averaged over the annotators, and number of kept masks at each pair of the grid: two
    arrays (stability thresholds, predicted-IoU thresholds)."""
    segments = list(image.segments.values())
    segment_areas = [areas(one) for one in segments]
    covered, counts = [], []
    for stability_thresh in STABILITY_GRID:
        for rles, predicted_iou, thresholds in _kept(found, settings, stability_thresh):
            iou = [pairwise_iou(one, rles, image.height, image.width) for one in segments]
            for thresh in thresholds:
                passing = predicted_iou > thresh
                parts = [
                    overlap(best_overlaps(each[:, passing]), area).area_weighted_best
                    for each, area in zip(iou, segment_areas, strict=True)
                ]
                covered.append(float(np.mean(parts)) if parts else 0.0)
                counts.append(int(passing.sum()))
    shape = (len(STABILITY_GRID), len(PREDICTED_IOU_GRID))
    return np.array(covered).reshape(shape), np.array(counts, np.int64).reshape(shape)


def _kept(
    found: Candidates, settings: FilterSettings, stability_thresh: float
) -> Iterator[tuple[list[bytes], np.ndarray, tuple[float, ...]]]:
    """Masks that the filters keep, their predicted IoU, and the predicted-IoU thresholds for which these are the answer
    once those at or below the threshold are left out.

    All rules that compare masks go down the predicted IoU, so a mask is never dropped for the sake of a lower one and
    one pass answers every threshold. Only suppression across crops does not, nor a ranking by consensus; then each
    threshold gets its own.
    """
    one_crop = settings.crop_nms_thresh is None or len(np.unique(found.crop_box, axis=0)) < 2
    nested = one_crop and settings.consensus_thresh is None
    for thresholds in (PREDICTED_IOU_GRID,) if nested else tuple((one,) for one in PREDICTED_IOU_GRID):
        update = {"pred_iou_thresh": thresholds[0], "stability_score_thresh": stability_thresh}
        filtered = filter_found(found, settings.model_copy(update=update))
        kept = np.flatnonzero(filtered.keep)
        yield [filtered.rles[index] for index in kept], filtered.predicted_iou[kept], thresholds
