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
from stages.record import BROUGHT_SOURCES, as_lists, fixed_rows, set_columns


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
    are. Masks that people made or that were imported stay as they are, behind the others.
    """

    def __init__(self, settings: FilterSettings, stored: StoredScores | None) -> None:
        self.settings = settings
        self.stored = stored

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = batch.combine_chunks()
        masks, flat_rles, flat_raw = (_one_chunk(batch[name]) for name in ("masks", "rles", "raw_rles"))
        heights, widths = batch["height"].to_pylist(), batch["width"].to_pylist()
        statuses, errors = batch["status"].to_pylist(), batch["error"].to_pylist()
        floors, seconds, structs, rles, raw_rles = [], [], [], [], []
        for index in range(batch.num_rows):
            started = time.perf_counter()
            row_masks = masks[index].values
            row_rles, row_raw = flat_rles[index].as_py(), flat_raw[index].as_py()
            floor = None
            if statuses[index] == "ok":
                try:
                    (own, own_rles, own_raw), brought = _without_brought(row_masks, row_rles, row_raw)
                    filtered = self._filter(own, own_rles, own_raw, heights[index], widths[index])
                    own, own_rles, own_raw, floor = self._store(own, filtered)
                    row_masks = pa.concat_arrays([own, brought[0]])
                    row_rles, row_raw = own_rles + brought[1], own_raw + brought[2]
                except Exception as error:  # one image must not take its batch along: the reason is kept in its row
                    statuses[index], errors[index] = "failed", f"filter: {describe(error)}"
                    if self.stored is not None:  # what a replay cannot judge again stays as it was
                        row_masks, row_rles, row_raw = row_masks.slice(0, 0), [], []
            structs.append(row_masks)
            rles.append(row_rles)
            raw_rles.append(row_raw)
            floors.append(floor)
            seconds.append(time.perf_counter() - started)
        columns = {
            "status": pa.array(statuses, pa.string()),
            "error": pa.array(errors, pa.string()),
            "masks": as_lists(pa.concat_arrays([masks.values.slice(0, 0), *structs]), [len(one) for one in structs]),
            "rles": pa.array(rles, pa.list_(pa.binary())),
            "raw_rles": pa.array(raw_rles, pa.list_(pa.binary())),
            "filter_seconds": pa.array(seconds, pa.float64()),
        }
        if self.stored is not None:
            columns["predicted_iou_floor"] = pa.array(floors, pa.float32())
        return set_columns(batch, columns)

    def _filter(
        self, masks: pa.StructArray, rles: list[bytes], raw_rles: list[bytes | None], height: int, width: int
    ) -> FilteredMasks:
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

    def _store(
        self, masks: pa.StructArray, filtered: FilteredMasks
    ) -> tuple[pa.StructArray, list[bytes], list[bytes | None], float | None]:
        keep = filtered.keep
        ids = pc.struct_field(masks, "mask_id")
        parent = filtered.parent
        changed = {
            "keep": pa.array(keep),
            "drop_reason": pa.array(filtered.drop_reason, pa.string()),
            "parent_id": pc.take(ids, pa.array(parent, pa.int64(), mask=parent < 0)),
            "bbox": fixed_rows(filtered.bbox.astype(np.int32), pa.int32()),
            "area": pa.array(filtered.area, pa.int64()),
        }
        fields = list(masks.type)
        arrays = [changed.get(field.name, pc.struct_field(masks, field.name)) for field in fields]
        masks = pa.StructArray.from_arrays(arrays, fields=fields)
        if self.stored is None:
            return masks, filtered.rles, filtered.raw_rles, None
        stay, floor = _stored_candidates(keep, filtered, self.stored)
        rles, raw_rles = [filtered.rles[index] for index in stay], [filtered.raw_rles[index] for index in stay]
        return masks.take(pa.array(stay)), rles, raw_rles, floor


Masks = tuple[pa.StructArray, list[bytes], list[bytes | None]]


def _without_brought(masks: pa.StructArray, rles: list[bytes], raw_rles: list[bytes | None]) -> tuple[Masks, Masks]:
    """The round's own candidates, and the masks that the row only carries."""
    is_brought = pc.is_in(pc.struct_field(masks, "source"), value_set=pa.array(BROUGHT_SOURCES))
    own, brought = (np.flatnonzero(flags) for flags in (~np.asarray(is_brought), np.asarray(is_brought)))
    if len(brought) == 0:
        return (masks, rles, raw_rles), (masks.slice(0, 0), [], [])
    own_part, brought_part = (
        (masks.take(pa.array(chosen)), [rles[one] for one in chosen], [raw_rles[one] for one in chosen])
        for chosen in (own, brought)
    )
    return own_part, brought_part


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


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _values(masks: pa.StructArray, field: str) -> np.ndarray:
    return pc.struct_field(masks, field).to_numpy(zero_copy_only=False)


def _rows(masks: pa.StructArray, field: str) -> np.ndarray:
    """A field of four numbers a mask as (N, 4)."""
    return pc.struct_field(masks, field).flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
