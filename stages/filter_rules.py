"""Decide which candidates are kept, and why the others are not.

The filters of segment-anything's `SamAutomaticMaskGenerator` and of «Segment Anything» (Kirillov et al., 2023),
appendix B, as one list of rules over columns. They need run lengths and scores only, so the same code filters fresh
candidates on a worker and replays stored ones without a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.generator.candidates import Candidates
from models.masks.boxes import box_nms, inclusive_xyxy, touches_crop_edge
from models.masks.overlap import duplicates, parents
from models.masks.regions import clean_rle
from models.masks.rle import areas, bounding_boxes
from stages.filter_settings import FilterSettings

PREDICTED_IOU = "predicted_iou"
STABILITY_SCORE = "stability_score"
CONSENSUS = "consensus"
CROP_EDGE = "crop_edge"
BOX_NMS = "box_nms"
CROP_NMS = "crop_nms"
COVER = "cover"
SMALL = "small"
DUPLICATE = "duplicate"


@dataclass
class FilteredMasks:
    """The candidates of one image under decision: arrays of N, changed rule by rule.

    `bbox` (N, 4) x, y, w, h; `crop_box` (N, 4) likewise; `rank` (N,) says which of two stays, the higher; `drop_reason`
    holds the first rule that refused a candidate, None while it is kept; `raw_rles` the original of a mask that
    clean-up changed; `parent` the index of the smallest kept mask that contains it, -1 for none.
    """

    height: int
    width: int
    bbox: np.ndarray
    area: np.ndarray
    predicted_iou: np.ndarray
    stability_score: np.ndarray
    rank: np.ndarray
    crop_box: np.ndarray
    rles: list[bytes]
    raw_rles: list[bytes | None]
    drop_reason: list[str | None]
    parent: np.ndarray

    @property
    def keep(self) -> np.ndarray:
        return np.array([reason is None for reason in self.drop_reason], bool)

    def drop(self, indices: np.ndarray, reason: str) -> None:
        for index in indices:
            assert self.drop_reason[index] is None, "a candidate is dropped once"
            self.drop_reason[index] = reason


Rule = Callable[[FilteredMasks, FilterSettings], None]


def filter_candidates(
    height: int,
    width: int,
    bbox: np.ndarray,
    area: np.ndarray,
    predicted_iou: np.ndarray,
    stability_score: np.ndarray,
    agreement: np.ndarray | None,
    crop_box: np.ndarray,
    rles: list[bytes],
    settings: FilterSettings,
) -> FilteredMasks:
    """Every rule in order over the N candidates of one image, as they were before clean-up."""
    num_candidates = len(rles)
    masks = FilteredMasks(
        height=height,
        width=width,
        bbox=bbox.copy(),
        area=area.copy(),
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        rank=predicted_iou if settings.consensus_thresh is None else consensus(stability_score, agreement),
        crop_box=crop_box,
        rles=list(rles),
        raw_rles=[None] * num_candidates,
        drop_reason=[None] * num_candidates,
        parent=np.full(num_candidates, -1, np.int64),
    )
    for rule in RULES:
        rule(masks, settings)
    return masks


def filter_found(found: Candidates, settings: FilterSettings) -> FilteredMasks:
    """Every rule over what the generator found in one image."""
    return filter_candidates(
        found.height,
        found.width,
        found.bbox,
        found.area,
        found.predicted_iou,
        found.stability_score,
        found.agreement,
        found.crop_box,
        found.rles,
        settings,
    )


def by_predicted_iou(masks: FilteredMasks, settings: FilterSettings) -> None:
    low = ~(masks.predicted_iou > settings.pred_iou_thresh)
    masks.drop(np.flatnonzero(masks.keep & low), PREDICTED_IOU)


def by_stability(masks: FilteredMasks, settings: FilterSettings) -> None:
    low = ~(masks.stability_score >= settings.stability_score_thresh)
    masks.drop(np.flatnonzero(masks.keep & low), STABILITY_SCORE)


def consensus(stability_score: np.ndarray, agreement: np.ndarray | None) -> np.ndarray:
    """What a mask is worth by the model's answers instead of its ratings: at most 1 for one that came once.

    Ours. The predicted IoU of a model that has seen synthetic scenes alone says next to nothing of a photograph, but
    what is one object there is still found from many points, and stands whatever the threshold.
    """
    assert agreement is not None, "a recipe with a consensus has agreements"
    return stability_score * np.log2(1.0 + agreement)


def by_consensus(masks: FilteredMasks, settings: FilterSettings) -> None:
    if settings.consensus_thresh is None:
        return
    masks.drop(np.flatnonzero(masks.keep & ~(masks.rank >= settings.consensus_thresh)), CONSENSUS)


def by_crop_edge(masks: FilteredMasks, settings: FilterSettings) -> None:
    """A mask that touches an inner edge of its crop is a piece of something larger."""
    if settings.crop_edge_tolerance is None:
        return
    for crop_box, indices in _by_crop(masks):
        x, y, w, h = crop_box.tolist()
        cut = touches_crop_edge(
            inclusive_xyxy(masks.bbox[indices]),
            (x, y, x + w, y + h),
            (masks.height, masks.width),
            settings.crop_edge_tolerance,
        )
        masks.drop(indices[cut], CROP_EDGE)


def by_box_nms(masks: FilteredMasks, settings: FilterSettings) -> None:
    """Within each crop, the better rank first."""
    if settings.box_nms_thresh is None:
        return
    for _, indices in _by_crop(masks):
        boxes = inclusive_xyxy(masks.bbox[indices])
        kept = box_nms(boxes, masks.rank[indices], settings.box_nms_thresh)
        masks.drop(np.delete(indices, kept), BOX_NMS)


def by_crop_nms(masks: FilteredMasks, settings: FilterSettings) -> None:
    """Across crops, the smaller crop first, since it saw the mask at the higher resolution."""
    if settings.crop_nms_thresh is None or len(_by_crop(masks)) < 2:
        return
    # within a crop the better rank stands first, as in the published code, whose phase one sorts by predicted IoU
    alive = np.concatenate([indices[np.argsort(-masks.rank[indices], kind="stable")] for _, indices in _by_crop(masks)])
    crop_area = masks.crop_box[alive, 2].astype(np.float64) * masks.crop_box[alive, 3]
    kept = box_nms(inclusive_xyxy(masks.bbox[alive]), 1.0 / crop_area, settings.crop_nms_thresh)
    masks.drop(np.delete(alive, kept), CROP_NMS)


def by_cover(masks: FilteredMasks, settings: FilterSettings) -> None:
    """A mask of nearly the whole image names nothing in it."""
    if settings.max_cover is None:
        return
    covers = masks.area >= settings.max_cover * masks.height * masks.width
    masks.drop(np.flatnonzero(masks.keep & covers), COVER)


def clean_up(masks: FilteredMasks, settings: FilterSettings) -> None:
    """Small components and holes go; a mask of nothing but small components goes as a whole, unchanged in the row."""
    if settings.min_component_area == 0 and settings.max_hole_area == 0:
        return
    changed = []
    for index in np.flatnonzero(masks.keep):
        rle = masks.rles[index]
        cleaned, differs = clean_rle(
            rle, masks.height, masks.width, settings.min_component_area, settings.max_hole_area
        )
        if (areas([cleaned])[0] if differs else masks.area[index]) == 0:
            masks.drop(np.array([index]), SMALL)
        elif differs:
            masks.rles[index], masks.raw_rles[index] = cleaned, rle
            changed.append(index)
    if changed:
        rles = [masks.rles[index] for index in changed]
        masks.bbox[changed] = bounding_boxes(rles, masks.height)
        masks.area[changed] = areas(rles)


def by_duplicate(masks: FilteredMasks, settings: FilterSettings) -> None:
    """Masks that say the same thing twice, by the overlap of the masks themselves; the better rank stays."""
    if settings.duplicate_iou is None and settings.duplicate_containment is None:
        return
    alive = np.flatnonzero(masks.keep)
    of = duplicates(
        [masks.rles[index] for index in alive],
        masks.rank[alive],
        masks.height,
        masks.width,
        settings.duplicate_iou,
        settings.duplicate_containment,
        settings.duplicate_min_area_ratio,
    )
    rejected = alive[of >= 0]
    masks.drop(rejected, DUPLICATE)
    undo_clean_up(masks, rejected)


def undo_clean_up(masks: FilteredMasks, indices: np.ndarray) -> None:
    """Give rejected candidates back the mask they were found with."""
    for index in indices:
        raw = masks.raw_rles[index]
        if raw is not None:
            masks.rles[index], masks.raw_rles[index] = raw, None
            masks.bbox[index] = bounding_boxes([raw], masks.height)[0]
            masks.area[index] = areas([raw])[0]


def find_parents(masks: FilteredMasks, settings: FilterSettings) -> None:
    alive = np.flatnonzero(masks.keep)
    found = parents([masks.rles[index] for index in alive], masks.height, masks.width, settings.parent_containment)
    masks.parent[alive] = np.where(found >= 0, alive[found], -1) if len(alive) else found


RULES: tuple[Rule, ...] = (
    by_predicted_iou,
    by_stability,
    by_consensus,
    by_crop_edge,
    by_box_nms,
    by_crop_nms,
    by_cover,
    clean_up,
    by_duplicate,
    find_parents,
)


def _by_crop(masks: FilteredMasks) -> list[tuple[np.ndarray, np.ndarray]]:
    """(crop_box, indices of the kept candidates in it) for each crop, in the candidates' order."""
    alive = np.flatnonzero(masks.keep)
    if len(alive) == 0:
        return []
    boxes, first, crop = np.unique(masks.crop_box[alive], axis=0, return_index=True, return_inverse=True)
    return [(boxes[one], alive[crop.reshape(-1) == one]) for one in np.argsort(first)]
