"""Labelled views for CLIP: masks of annotated images, and whole images, each with the texts that describe it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.masks.rle import bounding_boxes
from pipeline.coco_labels import ANNOTATIONS, compressed_counts, read_coco
from stages.decode_pixels import DecodeSettings, decode_image

CAPTION = "caption"  # the group of texts that describe a mask
SCENE = "scene"  # of those that describe an image; by themselves, as they are several times as long


@dataclass(frozen=True)
class LabelledView:
    """One mask, as COCO counts with its box (x, y, w, h), or the whole image where `rle` is None; `texts` by group."""

    rle: bytes | None
    bbox: tuple[int, int, int, int]
    texts: dict[str, str]


@dataclass(frozen=True)
class LabelledPicture:
    path: Path
    height: int
    width: int
    whole: LabelledView | None
    masks: tuple[LabelledView, ...]

    def pixels(self) -> np.ndarray:
        return decode_image(self.path.read_bytes(), DecodeSettings()).pixels


def read_labelled_views(data: Sequence[str], labels: dict[str, str]) -> list[LabelledPicture]:
    """The pictures of labelled folders or COCO JSON files that have masks with texts.

    `labels` says for each group of texts which field of an annotation holds them; `category` is the name of its
    category. A caption is cut before the annotation's `relation`, which the view of a mask cannot show. Raises
    ValueError for a file that is missing or no COCO, and if no mask has a text.
    """
    found = [picture for one in data for picture in _read(Path(one).expanduser(), labels)]
    if not any(picture.masks for picture in found):
        fields = ", ".join(sorted({*labels.values()}))
        raise ValueError(
            f"data: no annotation of {', '.join(data)} has one of the fields {fields}; name others in labels"
        )
    return found


def _read(source: Path, labels: dict[str, str]) -> list[LabelledPicture]:
    if source.is_dir():
        source = source / ANNOTATIONS
    coco = read_coco(source)
    categories = {one["id"]: str(one["name"]) for one in coco.get("categories", []) if "id" in one and "name" in one}
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for one in coco["annotations"]:
        if not one.get("iscrowd", 0):
            by_image.setdefault(one["image_id"], []).append(one)
    pictures = []
    for record in coco["images"]:
        height, width = record["height"], record["width"]
        texts, rles = [], []
        for one in by_image.get(record["id"], []):
            shown = _texts(one | {"category": categories.get(one.get("category_id"))}, labels)
            if shown:
                texts.append(shown)
                rles.append(compressed_counts(one.get("segmentation"), height, width))
        boxes = bounding_boxes(rles, height).tolist() if rles else []
        masks = tuple(
            LabelledView(rle, tuple(box), shown)
            for rle, box, shown in zip(rles, boxes, texts, strict=True)
            if box[2] and box[3]
        )
        caption = record.get(CAPTION) if CAPTION in labels else None
        whole = LabelledView(None, (0, 0, width, height), {SCENE: caption}) if caption else None
        pictures.append(LabelledPicture(source.parent / record["file_name"], height, width, whole, masks))
    return pictures


def _texts(annotation: dict[str, Any], labels: dict[str, str]) -> dict[str, str]:
    texts = {group: str(annotation[field]) for group, field in labels.items() if annotation.get(field)}
    if CAPTION in texts:
        texts[CAPTION] = texts[CAPTION].removesuffix(annotation.get("relation") or "").strip()
    return texts
