"""Labelled images: a COCO-style annotation file and the pictures that it describes, image by image."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from models.masks.rle import areas, compress_counts, expand_counts
from stages.decode_image import describe
from stages.decode_pixels import DecodeSettings, decode_image

ANNOTATIONS = "annotations.json"

Record = dict[str, Any]


@dataclass(frozen=True)
class LabelledImage:
    """One image's masks as COCO compressed run lengths, by annotator (0 where the file names none), none empty.

    `num_empty` masks of the file have no pixel (COCO holds such polygons) and are left out.
    """

    path: Path
    height: int
    width: int
    segments: dict[int | str, list[bytes]]
    num_empty: int


class LabelledSet:
    """The images of an annotation file that have masks, in its order; each one's masks are converted when it is due.

    Crowd regions (`iscrowd`) are no masks of one object and are left out. `num_without_masks` images of the file have
    none and are left out too. Raises ValueError while iterating for a segmentation that is broken; the line names the
    annotation.
    """

    def __init__(
        self,
        source: Path,
        images: list[tuple[Record, Path]],
        annotations: dict[Any, list[Record]],
        num_without_masks: int,
    ) -> None:
        self.source = source
        self.num_without_masks = num_without_masks
        self._images = images
        self._annotations = annotations

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[LabelledImage]:
        for record, path in self._images:
            yield _labelled_image(record, path, self._annotations[record["id"]], self.source)


def read_labels(data: str, images: str | None = None, limit: int | None = None) -> LabelledSet:
    """Opens a labelled set: `data` is a folder with annotations.json, or a COCO JSON file.

    Pictures are looked for by their `file_name` in the folder `images`; without it in the annotation file's own folder
    and in images/ there. `limit` takes the first so many images that have masks. Segmentations may be polygons, run
    lengths or compressed run lengths; an annotation may name its `annotator`.

    Raises ValueError with one line for a file that is missing, no JSON or not COCO, for masks whose image is not
    listed, for pictures that are missing, and if no image has a mask.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: {limit} images; give at least 1")
    source = Path(data).expanduser()
    if source.is_dir():
        source = source / ANNOTATIONS
    coco = read_coco(source)
    records = {_field(one, "id", "image", source): one for one in coco["images"]}
    if num_twins := len(coco["images"]) - len(records):
        raise ValueError(f"{source}: {num_twins} images share their id with another; give each its own")
    annotations: dict[Any, list[Record]] = {}
    orphans = []
    for one in coco["annotations"]:
        image_id = _field(one, "image_id", "annotation", source)
        if image_id not in records:
            orphans.append(one)
        elif not one.get("iscrowd", 0):
            annotations.setdefault(image_id, []).append(one)
    if orphans:
        raise ValueError(
            f"{source}: {len(orphans)} masks without an image (annotation {orphans[0].get('id')} is of image "
            f"{orphans[0]['image_id']}, which is not listed); list the image or remove its masks"
        )
    if not annotations:
        raise ValueError(f"{source}: none of its {len(records)} images has a mask; give a file with segmentations")
    labelled = [record for image_id, record in records.items() if image_id in annotations]
    folders = [Path(images).expanduser()] if images is not None else [source.parent, source.parent / "images"]
    pictures = _find_pictures(labelled[:limit], folders, source)
    return LabelledSet(source, pictures, annotations, len(records) - len(labelled))


def read_pixels(image: LabelledImage, settings: DecodeSettings) -> np.ndarray:
    """The picture, (H, W, 3) uint8 RGB. Raises ValueError if it is unreadable, or of another size than its labels."""
    try:
        pixels = decode_image(image.path.read_bytes(), settings).pixels
    except Exception as error:  # a picture may be broken in any way: the line says which one and how
        raise ValueError(f"{image.path}: cannot be read ({describe(error)}); mend it or leave it out") from error
    height, width = pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        raise ValueError(
            f"{image.path}: the picture is {width} x {height}, its labels say {image.width} x {image.height}; "
            "give the picture that was labelled"
        )
    return pixels


def read_coco(source: Path) -> Record:
    """A COCO file's content, its images and annotations lists of records. Raises ValueError if it is none."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ValueError(
            f"labels {source}: cannot be read ({describe(error)}); give a folder with {ANNOTATIONS}, or a COCO JSON"
        ) from None
    return parse_coco(data, str(source))


def parse_coco(data: bytes, where: str) -> Record:
    """`read_coco` of a file's bytes."""
    try:
        coco = json.loads(data)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"labels {where}: cannot be read ({describe(error)}); give a folder with {ANNOTATIONS}, or a COCO JSON"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"labels {where}: broken JSON ({error}); write the file anew") from None
    for name in ("images", "annotations"):
        listed = coco.get(name) if isinstance(coco, dict) else None
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise ValueError(f"labels {where}: {name} is not a list of records; give a COCO JSON file")
    return coco


def _field(record: Record, name: str, kind: str, source: Path) -> Any:
    if name not in record:
        raise ValueError(f"{source}: {kind} {record.get('id', record)} has no {name}; COCO files need one")
    if not isinstance(record[name], int | str):
        raise ValueError(f"{source}: {kind} {record.get('id', record)}: {name} is {record[name]!r}, no number or text")
    return record[name]


def _find_pictures(records: list[Record], folders: list[Path], source: Path) -> list[tuple[Record, Path]]:
    found, missing = [], []
    for record in records:
        for name in ("height", "width"):
            size = _field(record, name, "image", source)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{source}: image {record['id']}: {name} is {size!r}; give pixels")
        candidates = [folder / str(_field(record, "file_name", "image", source)) for folder in folders]
        path = next((one for one in candidates if one.is_file()), None)
        if path is None:
            missing.append(record["file_name"])
        else:
            found.append((record, path))
    if missing:
        where = " or ".join(str(folder) for folder in folders)
        raise ValueError(
            f"{source}: {len(missing)} of {len(records)} images are not in {where} ({missing[0]}); "
            "put them there, or name their folder"
        )
    return found


def _labelled_image(record: Record, path: Path, annotations: list[Record], source: Path) -> LabelledImage:
    height, width = record["height"], record["width"]
    segments: dict[int | str, list[bytes]] = {}
    num_empty = 0
    for one in annotations:
        try:
            rle, annotator = compressed_counts(one.get("segmentation"), height, width), _annotator(one)
        except ValueError as error:
            raise ValueError(f"{source}: annotation {one.get('id')} of {path.name}: {error}") from None
        if areas([rle])[0]:
            segments.setdefault(annotator, []).append(rle)
        else:
            num_empty += 1
    return LabelledImage(path, height, width, segments, num_empty)


def _annotator(annotation: Record) -> int | str:
    annotator = annotation.get("annotator", 0)
    if not isinstance(annotator, int | str):
        raise ValueError(f"annotator is {annotator!r}, no number or text; name one person an annotation")
    return annotator


def compressed_counts(segmentation: Any, height: int, width: int) -> bytes:
    """Any of COCO's three forms (polygons, counts as numbers, counts as text) as compressed run lengths.

    Raises ValueError for another form, and for run lengths that are broken or of another image size.
    """
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ValueError("the segmentation is neither polygons nor run lengths; give one of them")
    size = segmentation.get("size", [height, width])
    if size != [height, width]:
        raise ValueError(f"the segmentation's size is {size}, the image's [{height}, {width}]; they must agree")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if not all(isinstance(one, int) and one >= 0 for one in counts) or sum(counts) != height * width:
            raise ValueError(f"counts do not add up to {height} x {width} pixels; give the runs of the whole image")
        return compress_counts(np.array(counts, np.int64), np.array([len(counts)]))[0]
    if not isinstance(counts, str | bytes):
        raise ValueError("counts are neither a list of numbers nor COCO's text; give one of them")
    try:
        rle = counts if isinstance(counts, bytes) else counts.encode("ascii")
        runs, _ = expand_counts([rle])
    except ValueError as error:
        raise ValueError(f"counts are broken: {error}") from None
    if runs.sum() != height * width:
        raise ValueError(f"counts cover {runs.sum()} pixels, not {height} x {width}; check the image's size")
    return rle


def _from_polygons(polygons: list[Any], height: int, width: int) -> bytes:
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(isinstance(one, int | float) for one in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise ValueError("a polygon is not a list x0, y0, x1, y1, … of three points or more; mend or remove it")
    if not polygons:
        return compress_counts(np.array([height * width], np.int64), np.array([1]))[0]
    return bytes(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"])
