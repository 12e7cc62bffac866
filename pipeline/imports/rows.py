"""One image's labels as a row of the record."""

import hashlib
from pathlib import PurePosixPath
from typing import Any, Literal

from models.masks.rle import areas, bounding_boxes
from pipeline.export.pictures import COPIED
from pipeline.export.records import stem
from pipeline.imports.labels import ImportedImage, LabelledMask
from pipeline.imports.masks import mask_names, parent_names, usable_masks
from pipeline.imports.pictures import PictureFinder
from pipeline.labels.notes import Notes
from pipeline.store.own_pictures import PICTURES
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.decode_image import perceptual_hash
from stages.decode_pixels import DecodeSettings, decode_image
from stages.read_source import read_source, source_etag
from stages.row_masks import RowMask, mask_lists

Source = Literal["human", "imported"]
KEPT_FIELDS = ("predicted_iou", "stability_score", "crop_box", "caption")


def new_row(image: ImportedImage, finder: PictureFinder, source: Source, target: Round, notes: Notes) -> dict[str, Any]:
    """The row of an image that the dataset does not hold; a picture that the labels hold goes into the dataset's
    folder pictures/. Masks that cannot be used are left out and counted. Raises ValueError, and what reading its
    picture raises."""
    if image.problem:
        raise ValueError(image.problem)
    number = target.number
    uri = finder.find(image.picture) if image.data is None else _save_picture(image, image.data, target.folder)
    row = describe_picture(image, uri) | {"image_id": image.image_id, "round": number, "tags": [], "status": "ok"}
    upright = row["height"], row["width"]
    image, rles = usable_masks(image, upright, row["decode"]["orientation"], notes, strict=False)
    names = mask_names(image, number, notes)
    masks = []
    parents = parent_names(image.masks, names)
    for name, parent, mask, rle, shape in zip(
        names, parents, image.masks, rles, shapes(rles, row["height"]), strict=True
    ):
        one = mask.annotation
        fields = {
            "mask_id": name,
            **shape,
            "source": source,
            "keep": True,
            "iscrowd": one["iscrowd"],
            "point": next(iter(one["point_coords"] or []), None),
            "tags": tags_of(mask) or one["tags"] or [],
            "parent_id": parent,
            **{field: one[field] for field in KEPT_FIELDS},
        }
        masks.append(RowMask(fields, rle))
    return row | mask_lists(masks, embedded=False)


def failed_row(image: ImportedImage, reason: str, number: int) -> dict[str, Any]:
    """A row that says why there are no masks."""
    row: dict[str, Any] = {"image_id": image.image_id, "uri": image.picture or None, "round": number, "tags": []}
    return row | mask_lists([], embedded=False) | {"status": "failed", "error": f"import: {reason}"}


def shapes(rles: list[bytes], height: int) -> list[dict[str, Any]]:
    """`bbox` and `area` of each."""
    boxes = bounding_boxes(rles, height).tolist()
    return [{"bbox": bbox, "area": int(area)} for bbox, area in zip(boxes, areas(rles), strict=True)]


def tags_of(mask: LabelledMask) -> list[dict[str, Any]]:
    """A category is certain."""
    return [{"name": tag, "score": 1.0} for tag in mask.tags]


def describe_picture(image: ImportedImage, uri: str) -> dict[str, Any]:
    """What a row says about its picture. Raises whatever reading it raises."""
    data = read_source(uri, None, None)
    decoded = decode_image(data, DecodeSettings())
    height, width = decoded.pixels.shape[:2]
    return {
        "uri": uri,
        "source_etag": source_etag(uri),
        "content_sha256": hashlib.sha256(data).hexdigest(),
        "phash": perceptual_hash(decoded.pixels),
        "width": width,
        "height": height,
        "decode": decoded.record(),
        "extra": [("labels", image.origin)],
    }


def _save_picture(image: ImportedImage, data: bytes, folder: Folder) -> str:
    ending = PurePosixPath(image.picture).suffix.lower()
    name = f"{PICTURES}/{stem(image.image_id)}{ending if ending in COPIED else ''}"
    folder.write(name, data)
    return folder.path(name) if folder.is_local else f"{folder.uri.rstrip('/')}/{name}"
