"""Labelled views for CLIP: masks of annotated images, and whole images, each with the texts that describe it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.masks.rle import bounding_boxes
from pipeline.coco_labels import read_coco
from pipeline.labels.layout import coco_path
from pipeline.labels.mask import EMPTY, read_mask
from pipeline.labels.notes import shown
from pipeline.labels.references import CocoLabels, Record, check_references
from pipeline.labels.segmentation import BrokenMaskError
from pipeline.labels.values import as_flag, as_identity, as_size, as_text
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

    `labels` says for each group of texts which field of an annotation, or of an image that shows one thing, holds them;
    of several fields, written `category/class`, the first that is there. `category` is the name of the annotation's
    category. A caption is cut before the annotation's `relation`, which the view of a mask cannot show. Raises
    ValueError for a file that is missing or no COCO, and if neither a mask nor an image has a text.
    """
    found = [picture for one in data for picture in _read(one, labels)]
    if not any(picture.masks or picture.whole for picture in found):
        fields = ", ".join(sorted({*labels.values()}))
        raise ValueError(
            f"data: no annotation of {', '.join(data)} has one of the fields {fields}; name others in labels"
        )
    return found


def some_masks(pictures: Sequence[LabelledPicture], limit: int | None, seed: int) -> list[LabelledPicture]:
    """The pictures with at most `limit` masks each, drawn at random in their order."""
    found = []
    for number, picture in enumerate(pictures):
        masks = picture.masks
        if limit is not None and len(masks) > limit:
            drawn = np.random.default_rng([seed, number]).permutation(len(masks))[:limit]
            masks = tuple(masks[index] for index in np.sort(drawn))
        found.append(dataclasses.replace(picture, masks=masks))
    return found


def _read(data: str, labels: dict[str, str]) -> list[LabelledPicture]:
    source = coco_path(data)
    coco = check_references(read_coco(source), str(source))
    pictures = []
    for identity, record in coco.images.items():
        size, name = as_size(record), as_text(record.get("file_name"))
        if size is None or name is None:
            raise ValueError(
                f"{source}: image {shown(identity)} lacks a file_name, height or width; COCO files need them"
            )
        masks = _masks(coco, coco.annotations.get(identity, []), labels, size)
        of_image = _texts(record, {group: field for group, field in labels.items() if group != CAPTION})
        caption = as_text(record.get(CAPTION)) if CAPTION in labels else None
        if caption:
            of_image[SCENE] = caption
        whole = LabelledView(None, (0, 0, size[1], size[0]), of_image) if of_image else None
        pictures.append(LabelledPicture(source.parent / name, *size, whole, masks))
    return pictures


def _masks(
    coco: CocoLabels, annotations: list[Record], labels: dict[str, str], size: tuple[int, int]
) -> tuple[LabelledView, ...]:
    """Those with a text and a pixel; crowds show no one thing."""
    texts, rles = [], []
    for one in annotations:
        category = coco.categories.get(as_identity(one.get("category_id")) or 0)
        found = _texts(one | {"category": category}, labels)
        if not found or as_flag(one.get("iscrowd")):
            continue
        try:
            rles.append(read_mask(one, *size).rle)
        except BrokenMaskError as error:
            if error.reason == EMPTY:
                continue
            raise ValueError(f"{coco.where}: annotation {shown(one.get('id'))}: {error}") from None
        texts.append(found)
    boxes = bounding_boxes(rles, size[0]).tolist() if rles else []
    return tuple(LabelledView(rle, tuple(box), found) for rle, box, found in zip(rles, boxes, texts, strict=True))


def _texts(annotation: Record, labels: dict[str, str]) -> dict[str, str]:
    texts = {}
    for group, fields in labels.items():
        values = [annotation[field] for field in fields.split("/") if annotation.get(field)]
        if values:
            texts[group] = str(values[0])
    if CAPTION in texts:
        texts[CAPTION] = texts[CAPTION].removesuffix(as_text(annotation.get("relation")) or "").strip()
    return texts
