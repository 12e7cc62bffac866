"""One annotation's mask, held against what the annotation says of itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.masks.rle import areas_of_counts, boxes_of_counts, decode_masks, encode_masks, expand_counts
from pipeline.labels.segmentation import BrokenMaskError, from_runs, read_segmentation
from pipeline.labels.values import as_flag, as_number, as_numbers

MAX_MENDED = 100_000_000  # pixels of a picture whose run lengths are read in another order

EMPTY = "left out: mask without a pixel"
ROW_MAJOR = "mended: run lengths read row by row"
INVERTED = "mended: run lengths that begin with the object"
ODD_BOX = "kept: mask that its box contradicts"
ODD_AREA = "kept: mask that its area contradicts"
ODD_CROWD = "read as no crowd: iscrowd is neither 0 nor 1"


@dataclass(frozen=True)
class ReadMask:
    """A mask with pixels; `remarks` say what was mended or is odd."""

    rle: bytes
    is_crowd: bool
    remarks: tuple[str, ...]


def read_mask(annotation: dict[str, Any], height: int, width: int) -> ReadMask:
    """The mask of a COCO annotation in an image of that size.

    Run lengths say nothing about the order in which they were written, so where the annotation's own box contradicts
    them they are read row by row, or inverted, if just one of that fits. A mask that is contradicted all the same is
    kept, as boxes may be wrong too, with a remark. Raises BrokenMaskError for what is no mask or has no pixel.
    """
    segmentation = annotation.get("segmentation")
    if segmentation is None or segmentation in ([], {}):
        raise _without_mask(annotation)
    drawn = read_segmentation(segmentation, height, width)
    rle, remarks = drawn.rle, list(drawn.remarks)
    shape = _Shape.of(rle, height)
    if not shape.area:
        raise BrokenMaskError(EMPTY, "no pixel of the picture belongs to the mask")
    says = _Said.of(annotation, height, width)
    if says.contradicts_box(shape):
        other = None if drawn.is_polygon else _other_reading(rle, says, height, width)
        rle, remark = other or (rle, ODD_BOX)
        remarks.append(remark)
    elif says.contradicts_area(shape):
        remarks.append(ODD_AREA)
    crowd = as_flag(annotation.get("iscrowd"))
    if crowd is None:
        remarks.append(ODD_CROWD)
    return ReadMask(rle, bool(crowd), tuple(remarks))


def _without_mask(annotation: dict[str, Any]) -> BrokenMaskError:
    if annotation.get("keypoints"):
        return BrokenMaskError("left out: keypoints without a mask", "it has keypoints, no segmentation")
    if annotation.get("segments_info"):
        return BrokenMaskError(
            "left out: panoptic segments", "its masks are a picture's colours (COCO panoptic), no segmentation"
        )
    if annotation.get("bbox"):
        return BrokenMaskError("left out: box without a mask", "it has a box, no segmentation; masks are wanted")
    return BrokenMaskError("left out: annotation without a mask", "it has no segmentation")


@dataclass(frozen=True)
class _Shape:
    """What a mask is: its box x, y, w, h and its pixels."""

    box: list[int]
    area: int

    @classmethod
    def of(cls, rle: bytes, height: int) -> "_Shape":
        runs = expand_counts([rle])
        return cls(boxes_of_counts(*runs, height)[0].tolist(), int(areas_of_counts(*runs)[0]))


@dataclass(frozen=True)
class _Said:
    """What an annotation says of its mask: the box's edges x0, y0, x1, y1 inside the picture, and the area; None where
    it says nothing that can be true."""

    box: np.ndarray | None
    area: float | None

    @classmethod
    def of(cls, annotation: dict[str, Any], height: int, width: int) -> "_Said":
        box, area = as_numbers(annotation.get("bbox"), 4), as_number(annotation.get("area"))
        edges = None
        if box is not None and min(box[2:]) >= 1:
            x, y, w, h = box
            edges = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
        return cls(edges, area if area is not None and area >= 1 else None)

    def contradicts_box(self, shape: "_Shape") -> bool:
        """Beyond what rounding and other conventions of a box's last pixel explain."""
        if self.box is None:
            return False
        x, y, w, h = shape.box
        return bool(np.abs(self.box - [x, y, x + w, y + h]).max() > max(2.0, 0.1 * max(w, h)))

    def contradicts_area(self, shape: "_Shape") -> bool:
        """By more than the difference between a polygon's area and its pixels."""
        return self.area is not None and not (0.5 * self.area - 16 <= shape.area <= 2 * self.area + 16)


def _other_reading(rle: bytes, says: _Said, height: int, width: int) -> tuple[bytes, str] | None:
    """The other way to read the run lengths that agrees with box and area; None for none, or several."""
    counts = expand_counts([rle])[0]
    inverted = from_runs(np.concatenate([[0], counts]) if counts[0] else counts[1:])
    found = [(inverted, INVERTED)]
    if height * width <= MAX_MENDED:
        mask = decode_masks([rle], width, height)[0].T
        found.append((encode_masks(np.ascontiguousarray(mask)[None])[0], ROW_MAJOR))
    fitting = []
    for other, remark in found:
        shape = _Shape.of(other, height)
        if shape.area and not says.contradicts_box(shape) and not says.contradicts_area(shape):
            fitting.append((other, remark))
    return fitting[0] if len(fitting) == 1 else None
