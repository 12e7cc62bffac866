"""Filter stage: stored or fresh candidates in, the same rows with `keep`, `drop_reason` and parents out."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.generator.settings import StoreFloor
from models.masks.rle import areas, bounding_boxes
from stages.decode_image import describe
from stages.filter_rules import FilteredMasks, filter_candidates
from stages.filter_settings import FilterSettings
from stages.mask_columns import MaskColumns
from stages.record import BROUGHT_SOURCES, fixed_rows, set_columns


@dataclass(frozen=True)
class StoredScores:
    """What fresh candidates are cut down to before they are stored.

    `floor` None keeps no rejected candidate at all. `min_predicted_iou` is what the generator already asked for: every
    candidate above it is here.
    """

    floor: StoreFloor | None
    min_predicted_iou: float


class FilterMasks:
    """Stage: applies every rule to the masks of each row.

    With `stored` (a fresh run) rejected candidates that need not be kept are left out and `predicted_iou_floor` says
    above which predicted IoU the row still holds every candidate; without it (a replay) all rows stay as long as they
    are. Masks that people made or that were imported stay as they are, behind the others. A mask that clean-up changes
    otherwise than before loses the embedding of what it was.
    """

    def __init__(self, settings: FilterSettings, stored: StoredScores | None) -> None:
        self.settings = settings
        self.stored = stored

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = batch.combine_chunks()
        masks = MaskColumns.of(batch)
        heights, widths = batch["height"].to_pylist(), batch["width"].to_pylist()
        statuses, errors = batch["status"].to_pylist(), batch["error"].to_pylist()
        floors, seconds, rows = [], [], []
        for index in range(batch.num_rows):
            started = time.perf_counter()
            row, floor = masks.row(index), None
            if statuses[index] == "ok":
                try:
                    row, floor = self._filter_row(row, heights[index], widths[index])
                except Exception as error:  # one image must not take its batch along: the reason is kept in its row
                    statuses[index], errors[index] = "failed", f"filter: {describe(error)}"
                    if self.stored is not None:  # what a replay cannot judge again stays as it was
                        row = row.take(np.zeros(0, np.int64))
            rows.append(row)
            floors.append(floor)
            seconds.append(time.perf_counter() - started)
        columns = {
            "status": pa.array(statuses, pa.string()),
            "error": pa.array(errors, pa.string()),
            **MaskColumns.stacked(rows).columns(),
            "filter_seconds": pa.array(seconds, pa.float64()),
        }
        if self.stored is not None:
            columns["predicted_iou_floor"] = pa.array(floors, pa.float32())
        return set_columns(batch, columns)

    def _filter_row(self, masks: MaskColumns, height: int, width: int) -> tuple[MaskColumns, float | None]:
        """One image's masks, its own under the rules and behind them those that it only carries; and the floor."""
        is_brought = np.asarray(pc.is_in(masks.field("source"), value_set=pa.array(BROUGHT_SOURCES)))
        own = masks.filter(~is_brought)
        filtered = self._filter(own, height, width)
        own = _with_decisions(own, filtered)
        floor = None
        if self.stored is not None:
            stay, floor = _stored_candidates(filtered.keep, filtered, self.stored)
            own = own.take(stay)
        return own.joined(masks.filter(is_brought)), floor

    def _filter(self, masks: MaskColumns, height: int, width: int) -> FilteredMasks:
        rles, raw_rles = masks.flat["rles"].to_pylist(), masks.flat["raw_rles"].to_pylist()
        bbox, area = _rows(masks, "bbox"), _values(masks, "area")
        changed = [index for index, raw in enumerate(raw_rles) if raw is not None]
        if changed:
            originals = [raw_rles[index] or b"" for index in changed]
            bbox, area = bbox.copy(), area.copy()
            bbox[changed], area[changed] = bounding_boxes(originals, height), areas(originals)
        return filter_candidates(
            height,
            width,
            bbox,
            area,
            _values(masks, "predicted_iou"),
            _values(masks, "stability_score"),
            None if self.settings.consensus_thresh is None else _values(masks, "agreement"),
            _rows(masks, "crop_box"),
            [raw or rle for rle, raw in zip(rles, raw_rles, strict=True)],
            self.settings,
        )


def _with_decisions(masks: MaskColumns, filtered: FilteredMasks) -> MaskColumns:
    """The masks as the rules left them, kept or not."""
    parent = filtered.parent
    changed = {
        "keep": pa.array(filtered.keep),
        "drop_reason": pa.array(filtered.drop_reason, pa.string()),
        "parent_id": pc.take(masks.field("mask_id"), pa.array(parent, pa.int64(), mask=parent < 0)),
        "bbox": fixed_rows(filtered.bbox.astype(np.int32), pa.int32()),
        "area": pa.array(filtered.area, pa.int64()),
    }
    return masks.with_fields(changed).with_rles(filtered.rles, filtered.raw_rles)


def _stored_candidates(
    keep: np.ndarray, filtered: FilteredMasks, stored: StoredScores
) -> tuple[np.ndarray, float | None]:
    """Indices to store, in order, and the predicted IoU above which all candidates are among them (None: not so)."""
    if stored.floor is None:
        return np.flatnonzero(keep), None
    rejected = np.flatnonzero(~keep)
    best_first = rejected[np.argsort(-filtered.predicted_iou[rejected], kind="stable")]
    left_out = best_first[stored.floor.max_candidates :]
    stay = np.setdiff1d(np.arange(len(keep)), left_out)
    floor = stored.min_predicted_iou
    return stay, max(floor, float(filtered.predicted_iou[left_out[0]])) if len(left_out) else floor


def _values(masks: MaskColumns, field: str) -> np.ndarray:
    return masks.field(field).to_numpy(zero_copy_only=False)


def _rows(masks: MaskColumns, field: str) -> np.ndarray:
    """A field of four numbers a mask as (N, 4)."""
    return masks.field(field).flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
