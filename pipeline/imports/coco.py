"""COCO and LVIS files as labelled images."""

from typing import Any

from pipeline.coco_labels import parse_coco
from pipeline.imports.labels import ImportedImage, LabelledMask, checked_size

NO_TAG = "segment"


def coco_images(data: bytes, where: str) -> list[ImportedImage]:
    """The images of a COCO or LVIS JSON, those without masks too. Raises ValueError for a file that is none."""
    coco = parse_coco(data, where)
    names = {one.get("id"): str(one.get("name")) for one in coco.get("categories", [])}
    by_image: dict[Any, list[LabelledMask]] = {}
    for one in coco["annotations"]:
        name = names.get(one.get("category_id"))
        tags = [name] if name not in (None, NO_TAG) else []
        by_image.setdefault(one.get("image_id"), []).append(LabelledMask(one, tags, one.get("mask_id")))
    strangers = by_image.keys() - {one.get("id") for one in coco["images"]}
    if strangers:
        first = next(iter(strangers))
        raise ValueError(f"{where}: masks of image {first}, which is not listed; list it or remove them")
    return [_image(one, by_image.get(one.get("id"), []), where) for one in coco["images"]]


def _image(image: dict[str, Any], masks: list[LabelledMask], where: str) -> ImportedImage:
    # LVIS names its pictures by their address in COCO
    name = image.get("file_name") or str(image.get("coco_url", "")).rpartition("/")[2]
    if not name:
        raise ValueError(f"{where}: image {image.get('id')} lacks a file_name, height or width; COCO files need them")
    height, width = checked_size(image, where)
    identity = str(image.get("source_id") or name)
    return ImportedImage(identity, str(name), height, width, masks, where.rpartition("/")[2])
