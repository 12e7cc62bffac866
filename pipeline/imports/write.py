"""`maskfoundry import`: other tools' masks as a dataset."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from models.masks.rle import areas, bounding_boxes
from pipeline.coco_labels import ANNOTATIONS, compressed_counts, read_coco
from pipeline.progress import progress_bar
from pipeline.rounds import Round, publish, read_index
from pipeline.storage import Folder
from stages.decode_image import describe, perceptual_hash
from stages.decode_pixels import DecodeSettings, decode_image
from stages.read_source import etag, open_filesystem
from stages.record import SCHEMA

Source = Literal["human", "imported"]
IMAGES_PER_PART = 64
KEPT_FIELDS = ("predicted_iou", "stability_score", "crop_box", "parent_id", "caption")


@dataclass(frozen=True)
class ImportSummary:
    """What was read into `output`; `failed` images have a row with the reason and no masks."""

    output: str
    images: int
    failed: int
    masks: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ImportedImage:
    """One image's labels; `masks` are COCO or SA-1B annotations, each with the names of its tags."""

    name: str
    height: int
    width: int
    masks: list[tuple[dict[str, Any], list[str]]]
    origin: str


def import_labels(labels: str, output: str, images: str | None, source: Source, quiet: bool = False) -> ImportSummary:
    """Writes a new dataset of the masks in `labels`: a COCO or LVIS JSON (or a folder with annotations.json), or a
    folder of SA-1B's JSON files. Run lengths are taken over bit for bit, polygons are drawn as pycocotools draws them.

    Pictures are looked for in `images`, by default beside the labels and in images/ there. A picture or mask that
    cannot be read makes its image a failed row. Raises ValueError for labels that are none and for an output that
    holds a dataset.
    """
    path = Path(labels).expanduser()
    folders = [Path(images).expanduser()] if images is not None else []
    folder = Folder(output)
    if read_index(folder)["published"]:
        raise ValueError(f"output: {output!r} holds a dataset already; choose another folder")
    coco = path / ANNOTATIONS if (path / ANNOTATIONS).is_file() else path
    if coco.is_dir():
        files = sorted(coco.glob("*.json"))
        if not files:
            raise ValueError(f"labels: {labels!r} holds no JSON; give a COCO file or a folder of SA-1B's files")
        found: Iterable[ImportedImage] = (_sa1b_image(file) for file in files)
        total = len(files)
    else:
        listed = _coco_images(coco)
        found, total = listed, len(listed)
    places = folders or [coco if coco.is_dir() else coco.parent, (coco if coco.is_dir() else coco.parent) / "images"]
    return _write(found, total, places, folder, source, quiet)


def _write(
    found: Iterable[ImportedImage], total: int, places: list[Path], folder: Folder, source: Source, quiet: bool
) -> ImportSummary:
    target = Round(folder, 0)
    count = failed = masks = 0
    rows = (_row(one, places, source) for one in found)
    with progress_bar("importing", total, "images", quiet) as update:
        for part, some in enumerate(iter(lambda: list(islice(rows, IMAGES_PER_PART)), [])):
            target.write_part(part, pa.Table.from_pylist(some, schema=SCHEMA))
            count += len(some)
            failed += sum(row["status"] == "failed" for row in some)
            masks += sum(len(row["masks"]) for row in some)
            update(count, f"{masks:,} masks")
    counts = {"images": count, "failed": failed, "masks": masks}
    target.write_record({"round": 0, "imported": source, "fingerprints": {}, "counts": counts, "runs": []})
    publish(folder, 0)
    return ImportSummary(folder.uri, **counts)


def _row(image: ImportedImage, places: list[Path], source: Source) -> dict[str, Any]:
    row: dict[str, Any] = {"image_id": image.name, "uri": image.name, "round": 0, "tags": [], "status": "ok"}
    row |= {"masks": [], "rles": [], "raw_rles": []}
    try:
        row |= _picture(image, places)
        rles = [compressed_counts(mask.get("segmentation"), image.height, image.width) for mask, _ in image.masks]
    except Exception as error:  # labels and pictures may be broken in any way: the reason stays in the row
        return row | {"status": "failed", "error": f"import: {describe(error)}"}
    boxes = bounding_boxes(rles, image.height).tolist() if rles else []
    row["masks"] = [
        {
            "mask_id": mask.get("mask_id") or f"{image.name}/0/{index}",
            "bbox": bbox,
            "area": int(area),
            "source": source,
            "keep": True,
            "iscrowd": bool(mask.get("iscrowd", 0)),
            "point": next(iter(mask.get("point_coords") or []), None),
            "tags": [{"name": tag, "score": 1.0} for tag in tags] or mask.get("tags") or [],
            **{name: mask.get(name) for name in KEPT_FIELDS},
        }
        for index, ((mask, tags), bbox, area) in enumerate(zip(image.masks, boxes, areas(rles), strict=True))
    ]
    return row | {"rles": rles, "raw_rles": [None] * len(rles)}


def _picture(image: ImportedImage, places: list[Path]) -> dict[str, Any]:
    """What the row says about its picture. Raises whatever reading it raises, and ValueError for another size."""
    path = next((place / image.name for place in places if (place / image.name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{image.name} is not in {' or '.join(map(str, places))}")
    if not any(path.resolve().is_relative_to(place.resolve()) for place in places):
        raise ValueError(f"file_name {image.name!r} leaves its folder")
    data = path.read_bytes()
    decoded = decode_image(data, DecodeSettings())
    height, width = decoded.pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        raise ValueError(f"the picture is {width} x {height}, its labels say {image.width} x {image.height}")
    files, name = open_filesystem(str(path.resolve()))
    return {
        "uri": str(path.resolve()),
        "source_etag": etag(files.info(name)),
        "content_sha256": hashlib.sha256(data).hexdigest(),
        "phash": perceptual_hash(decoded.pixels),
        "width": width,
        "height": height,
        "decode": {key: getattr(decoded, key) for key in ("mode", "bit_depth", "orientation", "bands")},
        "extra": [("labels", image.origin)],
    }


def _coco_images(path: Path) -> list[ImportedImage]:
    coco = read_coco(path)
    names = {one.get("id"): str(one.get("name")) for one in coco.get("categories", [])}
    by_image: dict[Any, list[tuple[dict[str, Any], list[str]]]] = {}
    for one in coco["annotations"]:
        name = names.get(one.get("category_id"))
        by_image.setdefault(one.get("image_id"), []).append((one, [name] if name not in (None, "segment") else []))
    strangers = by_image.keys() - {one.get("id") for one in coco["images"]}
    if strangers:
        raise ValueError(f"{path}: masks of image {next(iter(strangers))}, which is not listed; list it or remove them")
    return [
        ImportedImage(_name(one, path), one["height"], one["width"], by_image.get(one["id"], []), path.name)
        for one in coco["images"]
    ]


def _sa1b_image(path: Path) -> ImportedImage:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        image, annotations = content["image"], content["annotations"]
        masks: list[tuple[dict[str, Any], list[str]]] = [(one, []) for one in annotations]
        return ImportedImage(_name(image, path), image["height"], image["width"], masks, path.name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not one of SA-1B's files ({describe(error)}); mend it or leave it out") from None


def _name(image: dict[str, Any], path: Path) -> str:
    # LVIS names its pictures by their address in COCO
    name = image.get("file_name") or str(image.get("coco_url", "")).rpartition("/")[2]
    sizes = [image.get("height"), image.get("width")]
    if not name or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"{path}: image {image.get('id')} lacks a file_name, height or width; COCO files need them")
    return str(name)
