"""One image's labels as a row of the record."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from models.masks.rle import areas, bounding_boxes
from pipeline.coco_labels import compressed_counts
from pipeline.export.pictures import COPIED
from pipeline.export.records import stem
from pipeline.imports.labels import ImportedImage, LabelledMask
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.allowed_places import AllowedPlaces
from stages.decode_image import perceptual_hash
from stages.decode_pixels import DecodeSettings, decode_image
from stages.read_source import find_file, open_filesystem, read_source, source_etag
from stages.row_masks import RowMask, mask_lists

Source = Literal["human", "imported"]
KEPT_FIELDS = ("predicted_iou", "stability_score", "crop_box", "caption")


def new_row(image: ImportedImage, places: list[str], source: Source, target: Round) -> dict[str, Any]:
    """The row of an image that the dataset does not hold; a picture that the labels hold goes into the dataset's
    folder pictures/. Raises ValueError, and what reading its picture raises."""
    if image.problem:
        raise ValueError(image.problem)
    number = target.number
    uri = find_picture(image.picture, places) if image.data is None else _save_picture(image, target.folder)
    row = describe_picture(image, uri) | {"image_id": image.image_id, "round": number, "tags": [], "status": "ok"}
    rles = run_lengths(image, row["height"], row["width"])
    names = [mask.annotation.get("mask_id") for mask in image.masks]
    if len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        names = [f"{image.image_id}/{number}/{index}" for index in range(len(names))]
    masks = []
    for name, mask, rle, shape in zip(names, image.masks, rles, shapes(rles, row["height"]), strict=True):
        one = mask.annotation
        parent = one.get("parent_id")
        fields = {
            "mask_id": name,
            **shape,
            "source": source,
            "keep": True,
            "iscrowd": bool(one.get("iscrowd", 0)),
            "point": next(iter(one.get("point_coords") or []), None),
            "tags": tags_of(mask) or one.get("tags") or [],
            "parent_id": parent if parent in names else None,
            **{field: one.get(field) for field in KEPT_FIELDS},
        }
        masks.append(RowMask(fields, rle))
    return row | mask_lists(masks, embedded=False)


def failed_row(image: ImportedImage, reason: str, number: int) -> dict[str, Any]:
    """A row that says why there are no masks."""
    row = {"image_id": image.image_id, "uri": image.picture, "round": number, "tags": []}
    return row | mask_lists([], embedded=False) | {"status": "failed", "error": f"import: {reason}"}


def run_lengths(image: ImportedImage, height: int, width: int) -> list[bytes]:
    """The masks' compressed run lengths, bit for bit where the labels hold such. Raises ValueError for a broken one."""
    return [compressed_counts(mask.annotation.get("segmentation"), height, width) for mask in image.masks]


def shapes(rles: list[bytes], height: int) -> list[dict[str, Any]]:
    """`bbox` and `area` of each."""
    boxes = bounding_boxes(rles, height).tolist()
    return [{"bbox": bbox, "area": int(area)} for bbox, area in zip(boxes, areas(rles), strict=True)]


def tags_of(mask: LabelledMask) -> list[dict[str, Any]]:
    """A category is certain."""
    return [{"name": tag, "score": 1.0} for tag in mask.tags]


def describe_picture(image: ImportedImage, uri: str) -> dict[str, Any]:
    """What a row says about its picture. Raises whatever reading it raises, and ValueError for another size."""
    data = read_source(uri, None, None)
    decoded = decode_image(data, DecodeSettings())
    height, width = decoded.pixels.shape[:2]
    if image.height is not None and (height, width) != (image.height, image.width):
        raise ValueError(f"the picture is {width} x {height}, its labels say {image.width} x {image.height}")
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


def find_picture(picture: str, places: list[str]) -> str:
    """The URI of a picture that lies in one of `places`, folders on disk or in a bucket; labels come from strangers,
    and may point anywhere. Raises FileNotFoundError or ValueError."""
    absolute = "://" in picture or picture.startswith("/")
    allowed = AllowedPlaces(closed=tuple(places))
    for place in places:
        uri = picture if absolute else f"{place}/{picture}"
        if not allowed.allows(uri):
            raise ValueError(f"file_name {picture!r} leaves its folder; name the pictures' folder with --images")
        file = find_file(uri)
        if file is not None:
            fs, path = open_filesystem(file)
            return str(Path(path).resolve()) + uri[len(file) :] if "file" in fs.protocol else uri
    raise FileNotFoundError(f"{picture} is not in {' or '.join(places)}")


def _save_picture(image: ImportedImage, folder: Folder) -> str:
    assert image.data is not None
    ending = PurePosixPath(image.picture).suffix.lower()
    name = f"pictures/{stem(image.image_id)}{ending if ending in COPIED else ''}"
    folder.write(name, image.data)
    return folder.path(name) if folder.is_local else f"{folder.uri.rstrip('/')}/{name}"
