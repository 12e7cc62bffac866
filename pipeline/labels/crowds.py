"""Which annotations are crowds: regions of many objects, which are no mask of one (COCO's `iscrowd`)."""

from collections.abc import Iterable
from typing import Any

from pipeline.labels.values import as_flag

AS_MASKS = "read as masks: marked as a crowd, as CVAT marks what a brush drew"
CROWD = "left out: crowd region"


def only_crowds(annotations: Iterable[dict[str, Any]]) -> bool:
    """Whether every one is marked: then the mark says how they were drawn, not what they show."""
    return all(as_flag(one.get("iscrowd")) for one in annotations)


def is_brush(annotation: dict[str, Any], only: bool) -> bool:
    """Whether the mark of a crowd says that a brush drew the mask. CVAT's annotations have `attributes` with
    `occluded`, which COCO's have not; `only` is what `only_crowds` says of the file."""
    attributes = annotation.get("attributes")
    of_cvat = isinstance(attributes, dict) and "occluded" in attributes
    return bool(as_flag(annotation.get("iscrowd"))) and (only or of_cvat)
