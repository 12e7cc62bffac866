"""The masks of an imported image that can be used: checked, upright, with the fields that the record has."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.export.brush import from_brush
from pipeline.imports.labels import ImportedImage, LabelledMask
from pipeline.labels.mask import EMPTY, read_mask
from pipeline.labels.names import is_own_name
from pipeline.labels.notes import Notes, shown
from pipeline.labels.orientation import STORED, UNTOLD, cannot_be_told, only_stored_fits, turn_mask, turn_point
from pipeline.labels.segmentation import OTHER_RUNS, BrokenMaskError
from pipeline.labels.values import as_ints, as_number, as_numbers, as_text

BROKEN_BRUSH = "left out: broken brush"
RENAMED = "renamed: mask_id of another tool, which need not be unique"


def usable_masks(
    image: ImportedImage, upright: tuple[int, int], orientation: int, notes: Notes, strict: bool
) -> tuple[ImportedImage, list[bytes]]:
    """The image with its usable masks, whose annotations hold values of the record's types, and their run lengths in
    the picture that is shown, which is `upright` (height, width) large after its EXIF orientation was applied.

    What cannot be used is counted in `notes`; where `strict` only a mask without a pixel is, and any other raises
    ValueError, as the masks take the place of others. Raises ValueError for labels of another size.
    """
    labelled = upright if image.height is None or image.width is None else (image.height, image.width)
    turned = orientation if only_stored_fits(labelled, upright, orientation) else 1
    if labelled != upright and turned == 1:
        how = f" after its EXIF orientation {orientation}" if orientation != 1 else ""
        raise ValueError(
            f"the picture is {upright[1]} x {upright[0]}{how}, its labels say {labelled[1]} x {labelled[0]}"
        )
    found, rles, own = [], [], Notes()
    if cannot_be_told(upright, orientation) and image.masks:
        own.add(UNTOLD, image.image_id)
    for index, mask in enumerate(image.masks):
        where = f"mask {shown(mask.annotation.get('id', index))} of {image.image_id}"
        try:
            read = read_mask(_with_runs(mask.annotation, labelled), *labelled)
        except BrokenMaskError as error:
            if strict and error.reason != EMPTY:
                raise ValueError(f"{where}: {error}") from None
            own.add(error.reason, f"{where}: {error}")
            continue
        for remark in (*read.remarks, *([STORED] if turned != 1 else [])):
            own.add(remark, where)
        fields = _fields(mask.annotation, own, where) | {"iscrowd": read.is_crowd}
        if turned != 1:
            fields |= _turned_fields(fields, labelled, turned)
        found.append(replace(mask, annotation=fields))
        rles.append(turn_mask(read.rle, *labelled, turned))
    notes.update(own)
    return replace(image, masks=found, height=upright[0], width=upright[1]), rles


def mask_names(image: ImportedImage, number: int, notes: Notes) -> list[str]:
    """A name for each mask that no other of the dataset has: ours, which begins with the image's id, or a new one."""
    given = [mask.annotation["mask_id"] for mask in image.masks]
    own = [name for name in given if name is not None and is_own_name(name, image.image_id)]
    if len(set(own)) == len(given):
        return own
    if any(given):
        notes.add(RENAMED, image.image_id, len(given))
    return [f"{image.image_id}/{number}/{index}" for index in range(len(given))]


def parent_names(masks: Sequence[LabelledMask], names: list[str]) -> list[str | None]:
    """Each mask's parent by its new name, or None where the labels name none that can be told."""
    given = [mask.annotation["mask_id"] for mask in masks]
    times = Counter(given)
    renamed = {old: new for old, new in zip(given, names, strict=True) if old is not None and times[old] == 1}
    return [renamed.get(mask.annotation["parent_id"]) for mask in masks]


def _with_runs(annotation: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The annotation with a brush as run lengths; only one of the picture's own size is unpacked."""
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, dict) or "brush" not in segmentation:
        return annotation
    if as_ints(segmentation.get("size"), 2) != list(size):
        claimed = shown(segmentation.get("size"))
        raise BrokenMaskError(OTHER_RUNS, f"the brush's size is {claimed}, the picture's {list(size)}")
    try:
        counts = from_brush(segmentation["brush"], *size)
    except ValueError as error:
        raise BrokenMaskError(BROKEN_BRUSH, str(error)) from None
    return annotation | {"segmentation": {"size": list(size), "counts": counts}}


def _fields(annotation: dict[str, Any], notes: Notes, where: str) -> dict[str, Any]:
    """What the record keeps of an annotation; a value of another form is left out and counted."""
    values = {
        "mask_id": as_text(annotation.get("mask_id")),
        "parent_id": as_text(annotation.get("parent_id")),
        "predicted_iou": as_number(annotation.get("predicted_iou")),
        "stability_score": as_number(annotation.get("stability_score")),
        "crop_box": as_ints(annotation.get("crop_box"), 4),
        "caption": as_text(annotation.get("caption")),
        "point_coords": _points(annotation.get("point_coords")),
        "tags": _tags(annotation.get("tags")),
    }
    for name, value in values.items():
        if value is None and annotation.get(name) not in (None, ""):
            notes.add(f"ignored: {name} of another form", f"{where}: {shown(annotation[name])}")
    return values


def _points(value: Any) -> list[list[float]] | None:
    """The first point of SA-1B's list of them."""
    if value in (None, []):
        return []
    point = as_numbers(value[0], 2) if isinstance(value, list) else None
    return None if point is None else [point]


def _tags(value: Any) -> list[dict[str, Any]] | None:
    """Tags as our own exports write them."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(tag, dict) and as_text(tag.get("name")) for tag in value):
        return None
    return [{"name": as_text(tag["name"]), "score": as_number(tag.get("score"))} for tag in value]


def _turned_fields(fields: dict[str, Any], size: tuple[int, int], orientation: int) -> dict[str, Any]:
    turned: dict[str, Any] = {}
    if fields["point_coords"]:
        turned["point_coords"] = [turn_point(fields["point_coords"][0], *size, orientation)]
    if fields["crop_box"]:
        x, y, w, h = fields["crop_box"]
        corners = [turn_point(point, *size, orientation) for point in ([x, y], [x + w, y + h])]
        (x0, x1), (y0, y1) = (sorted(side) for side in zip(*corners, strict=True))
        turned["crop_box"] = [x0, y0, x1 - x0, y1 - y0]
    return turned
