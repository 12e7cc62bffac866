"""A segmentation in any form that COCO's tools write, as compressed run lengths; native code sees checked numbers only.

A polygon's outline costs pycocotools memory for every fifth of a pixel, inside the picture or not, so what lies far
outside or is longer than any outline is refused before.
"""

import ast
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from models.masks.rle import compress_counts, counts_from_transitions, expand_counts
from pipeline.labels.notes import shown
from pipeline.labels.values import LARGEST, as_int, as_ints, as_number

FAR = 10  # times the picture's longer side
MAX_OUTLINE = 4_000_000  # pixels, of all polygons of a mask
_BYTES_TEXT = re.compile(r"""b'[^']*'|b"[^"]*\"""")

UNKNOWN_FORM = "left out: segmentation of an unknown form"
BROKEN_RUNS = "left out: broken run lengths"
OTHER_RUNS = "left out: run lengths of another size"
BROKEN_POLYGON = "left out: broken polygon"
FAR_POLYGON = "left out: polygon far outside the picture"
LONG_POLYGON = "left out: polygon with too long an outline"
AS_TEXT = "mended: numbers written as text"
FLAT = "mended: polygon without its outer list"
PAIRS = "mended: polygon as pairs of numbers"
SPECK = "mended: polygon with a part of fewer than three points"
PYTHON_BYTES = "mended: run lengths written as Python's bytes"
RUNS_LIST = "mended: run lengths in a list"


class BrokenMaskError(ValueError):
    """A mask that cannot be used: `reason` is its kind, for counting; the message is one line about this one."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Drawn:
    """A mask's compressed run lengths; `remarks` say what was mended."""

    rle: bytes
    is_polygon: bool
    remarks: tuple[str, ...] = ()


def compressed_counts(segmentation: Any, height: int, width: int) -> bytes:
    """`read_segmentation` without the remarks."""
    return read_segmentation(segmentation, height, width).rle


def read_segmentation(segmentation: Any, height: int, width: int) -> Drawn:
    """Polygons, counts as numbers or counts as text; what is broken in a way that leaves no doubt is mended.

    Polygons are drawn as pycocotools draws them, run lengths keep their bytes unless they hold runs of no length.
    Raises BrokenMaskError.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise BrokenMaskError(UNKNOWN_FORM, "it is neither polygons nor run lengths")
    if all(isinstance(part, dict) for part in segmentation):
        parts = [_from_runs(part, height, width) for part in segmentation]
        remarks = {remark for part in parts for remark in part.remarks} | {RUNS_LIST}
        merged = coco_mask.merge([{"size": [height, width], "counts": part.rle} for part in parts])
        return Drawn(bytes(merged["counts"]), False, tuple(sorted(remarks)))
    return _from_polygons(segmentation, height, width)


def _from_runs(runs: dict[str, Any], height: int, width: int) -> Drawn:
    if "counts" not in runs:
        raise BrokenMaskError(UNKNOWN_FORM, "it is neither polygons nor run lengths")
    size = runs.get("size", [height, width])
    if as_ints(size, 2) != [height, width]:
        detail = f"the run lengths' size is {shown(size)}, the image's [{height}, {width}]; they must agree"
        raise BrokenMaskError(OTHER_RUNS, detail)
    counts = runs["counts"]
    remarks: tuple[str, ...] = ()
    if isinstance(counts, str | bytes):
        lengths, remarks = _from_text(counts)
    elif isinstance(counts, list):
        numbers = [as_int(one) for one in counts]
        if None in numbers or any(one is not None and one < 0 for one in numbers):
            raise BrokenMaskError(BROKEN_RUNS, "counts are no list of whole numbers from 0 on")
        lengths = np.array(numbers, np.int64)
    else:
        raise BrokenMaskError(BROKEN_RUNS, "counts are neither a list of numbers nor COCO's text")
    if lengths.sum() != height * width:
        detail = f"counts cover {lengths.sum()} pixels, not {height} x {width}; give the runs of the whole image"
        raise BrokenMaskError(BROKEN_RUNS, detail)
    return Drawn(from_runs(lengths), False, remarks)


def _from_text(counts: str | bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    remarks: tuple[str, ...] = ()
    if isinstance(counts, str):
        counts = counts.strip()
        if _BYTES_TEXT.fullmatch(counts):
            try:
                counts, remarks = ast.literal_eval(counts).decode("ascii"), (PYTHON_BYTES,)
            except (ValueError, SyntaxError):
                raise BrokenMaskError(BROKEN_RUNS, "counts are Python's bytes, and cut or changed") from None
    try:
        rle = counts if isinstance(counts, bytes) else counts.encode("ascii")
        return expand_counts([rle])[0], remarks
    except ValueError as error:
        raise BrokenMaskError(BROKEN_RUNS, f"counts are broken: {shown(str(error))}") from None


def from_runs(lengths: np.ndarray) -> bytes:
    """Compressed counts of one mask's run lengths, int64 (R,), without the runs of no length that some tools write."""
    if (lengths[1:] == 0).any():
        positions, times = np.unique(np.cumsum(lengths)[:-1], return_counts=True)
        lengths = counts_from_transitions(positions[times % 2 == 1], int(lengths.sum()))
    return compress_counts(lengths, np.array([len(lengths)]))[0]


def _from_polygons(polygons: list[Any], height: int, width: int) -> Drawn:
    remarks: set[str] = set()
    as_pairs = len(polygons) > 2 and all(isinstance(one, list) and len(one) == 2 for one in polygons)
    if as_pairs or not isinstance(polygons[0], list):
        polygons = [polygons]
        remarks.add(FLAT)
    parts = [_numbers(one, remarks) for one in polygons]
    whole = [part for part in parts if len(part) > 2]
    if not whole:
        raise BrokenMaskError(BROKEN_POLYGON, "a polygon has fewer than three points")
    if len(whole) < len(parts):
        remarks.add(SPECK)
    _check_extent(whole, height, width)
    drawn = coco_mask.frPyObjects([part.reshape(-1).tolist() for part in whole], height, width)
    return Drawn(bytes(coco_mask.merge(drawn)["counts"]), True, tuple(sorted(remarks)))


def _numbers(polygon: Any, remarks: set[str]) -> np.ndarray:
    """The points of a polygon, float64 (N, 2)."""
    if isinstance(polygon, list) and polygon and all(isinstance(one, list) and len(one) == 2 for one in polygon):
        polygon = [value for pair in polygon for value in pair]
        remarks.add(PAIRS)
    numbers = [_number(one, remarks) for one in polygon] if isinstance(polygon, list) else [None]
    if None in numbers or len(numbers) % 2:
        raise BrokenMaskError(BROKEN_POLYGON, "a polygon is not a list of numbers x0, y0, x1, y1, …")
    return np.array(numbers, np.float64).reshape(-1, 2)


def _number(value: Any, remarks: set[str]) -> float | None:
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
        remarks.add(AS_TEXT)
    if isinstance(value, int | float) and abs(value) > LARGEST and abs(value) != float("inf"):
        return LARGEST if value > 0 else -LARGEST  # far outside, however far
    return as_number(value)


def _check_extent(parts: list[np.ndarray], height: int, width: int) -> None:
    outline = 0.0
    side = FAR * max(height, width, 100)
    for part in parts:
        if part.min() < -side or (part.max(axis=0) > np.array([width, height]) + side).any():
            detail = f"a polygon's point lies more than {side} pixels outside the picture of {width} x {height}"
            raise BrokenMaskError(FAR_POLYGON, detail)
        outline += float(np.abs(part - np.roll(part, 1, axis=0)).max(axis=1).sum()) + len(part)
    if outline > MAX_OUTLINE:
        detail = f"its outline is {outline:.3g} pixels long, at most {MAX_OUTLINE:,} are drawn"
        raise BrokenMaskError(LONG_POLYGON, detail)
