"""Which kind of labels lies at a path or URI, and its images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.imports.coco import coco_images
from pipeline.imports.huggingface import huggingface_images
from pipeline.imports.label_studio import label_studio_images
from pipeline.imports.labels import ImportedImage, failed_image
from pipeline.imports.recognise import Kind, recognise
from pipeline.imports.sa1b import amg_image, sa1b_image, webdataset_images
from pipeline.labels.layout import COCO_FOLDER, coco_name, picture_places
from pipeline.labels.notes import Notes
from pipeline.labels.values import parse_json
from pipeline.store.index import INDEX
from pipeline.store.storage import Folder, split_file
from stages.address import absolute, is_archive
from stages.decode_image import describe
from stages.read_source import file_info

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SPLITS = ("train", "valid", "val", "test")


@dataclass(frozen=True)
class Labels:
    """`images` come one by one, `total` of them where it is known; pictures lie in `places` if nobody says else.
    `notes` counts what was left out or noticed on the way."""

    images: Iterable[ImportedImage]
    total: int | None
    places: list[str]
    notes: Notes


def find_labels(labels: str) -> Labels:
    """COCO or LVIS (a JSON, or a folder as tools lay it out), SA-1B (a JSON, or a folder of them), the lists of masks
    that segment-anything's script writes, WebDataset (an archive, or a folder of them), the Hugging Face layout, Label
    Studio's JSON export; on disk or in a bucket. What a JSON is, its content says.

    Raises ValueError for a place without labels, and for labels that are broken as a whole.
    """
    labels, notes = absolute(labels), Notes()
    info = file_info(labels)
    if info is not None and info["type"] == "file" and is_archive(labels):
        return Labels(webdataset_images([labels]), None, [_parent(labels)], notes)
    if labels.lower().endswith(".json") and (info is None or info["type"] == "file"):
        return _from_file(labels, notes)
    root, folder = labels.rstrip("/"), Folder(labels)
    names = folder.names("", "", "")
    if INDEX in names:
        raise ValueError(f"labels: {labels!r} is a dataset of MaskFoundry; export it first, or read it as it is")
    if (name := coco_name(names, [_base(one) for one in folder.names(COCO_FOLDER, "", ".json")])) is not None:
        return _from_file(f"{root}/{name}", notes)
    if tables := folder.names("data", "", ".parquet"):
        return Labels(huggingface_images(folder, tables), None, [root], notes)
    if archives := [name for name in names if is_archive(name)]:
        return Labels(webdataset_images([f"{root}/{name}" for name in archives]), None, [root], notes)
    records = [name for name in names if name.lower().endswith(".json") and not name.startswith(".")]
    if len(records) == 1:
        return _from_file(f"{root}/{records[0]}", notes)
    if records:
        return _from_records(root, folder, names, records, notes)
    raise ValueError(_nothing(labels, folder, names))


def _from_file(path: str, notes: Notes) -> Labels:
    folder, name = split_file(path)
    try:
        content = parse_json(folder.read(name), f"labels {path}")
    except OSError as error:
        raise ValueError(f"labels: {path!r} cannot be read ({error}); give a JSON file or a folder") from None
    kind = recognise(content, path)
    beside = folder.names("", "", "") if kind == "amg" else []
    images = _images(kind, content, path, beside, notes)
    return Labels(images, len(images), picture_places(path), notes)


def _images(kind: Kind, content: Any, path: str, beside: list[str], notes: Notes) -> list[ImportedImage]:
    if kind == "coco":
        return coco_images(content, path, notes)
    if kind == "label-studio":
        return label_studio_images(content, path, notes)
    return [_record(kind, content, path, beside)]


def _record(kind: Kind, content: Any, path: str, beside: list[str]) -> ImportedImage:
    """One image of a file of its own; `beside` are the files in its folder."""
    if kind == "sa1b":
        return sa1b_image(content, path)
    return amg_image(content, path, _picture_of(_base(path), beside))


def _from_records(root: str, folder: Folder, names: list[str], records: list[str], notes: Notes) -> Labels:
    """Files of one image each, as SA-1B has them; one that is broken, or of another kind, is an image that has
    failed."""
    kinds, first_problem = [], None
    for name in records[:8]:  # the first ones may be cut
        try:
            kinds.append(recognise(parse_json(folder.read(name), f"labels {root}/{name}"), f"{root}/{name}"))
        except ValueError as error:
            first_problem = first_problem or error
    if not {"sa1b", "amg"} & {*kinds}:
        if not kinds:
            assert first_problem is not None
            raise first_problem
        shown = ", ".join(records[:3])
        raise ValueError(
            f"labels: {root!r} holds {len(records)} files of {kinds[0]} labels ({shown}); name one of them"
        )

    def images() -> Iterator[ImportedImage]:
        for name in records:
            path = f"{root}/{name}"
            try:
                content = parse_json(folder.read(name), f"labels {path}")
                kind = recognise(content, path)
                if kind not in ("sa1b", "amg"):
                    raise ValueError(f"labels {path}: is a file of {kind} labels among those of single images")
                yield _record(kind, content, path, names)
            except (ValueError, OSError) as error:
                picture = _picture_of(name, names)
                yield failed_image(
                    picture, picture, path, str(error) if isinstance(error, ValueError) else describe(error)
                )

    return Labels(images(), len(records), [root, f"{root}/images"], notes)


def _picture_of(name: str, beside: list[str]) -> str:
    """The picture of a JSON file's name among the files beside it; that name itself if there is none."""
    stem = PurePosixPath(name).stem
    return next((one for one in beside if one.startswith(f"{stem}.") and one.lower().endswith(_PICTURES)), name)


def _nothing(labels: str, folder: Folder, names: list[str]) -> str:
    if "data.yaml" in names and "labels" in names:
        return f"labels: {labels!r} is in YOLO's layout, which loses parts of masks; give COCO, or SA-1B's files"
    if "metadata.csv" in names:
        return f"labels: {labels!r} holds amg.py's masks as pictures; run it with --convert-to-rle"
    if "label_config.xml" in names and "tasks" in names:
        return f"labels: {labels!r} holds tasks for Label Studio; give the JSON that its project exports"
    for split in _SPLITS:
        if split in names and (name := coco_name([_base(one) for one in folder.names(split, "", ".json")], [])):
            return f"labels: {labels!r} holds no labels itself, but {split}/{name}; give one of its splits"
    if below := folder.names(COCO_FOLDER, "", ".json"):
        return f"labels: {labels!r} holds {len(below)} JSON files in {COCO_FOLDER}/; name one, as {below[0]}"
    return f"labels: {labels!r} holds no JSON, tar or data/*.parquet; give a file or folder of labels"


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "."
