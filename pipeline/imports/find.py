"""Which kind of labels lies at a path or URI, and its images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.coco_labels import ANNOTATIONS
from pipeline.imports.coco import coco_images
from pipeline.imports.huggingface import huggingface_images
from pipeline.imports.label_studio import label_studio_images
from pipeline.imports.labels import ImportedImage
from pipeline.imports.sa1b import sa1b_image, webdataset_images
from pipeline.store.storage import Folder, split_file
from stages.address import absolute, is_archive
from stages.read_source import file_info, read_source


@dataclass(frozen=True)
class Labels:
    """`images` come one by one, `total` of them where it is known; pictures lie in `places` if nobody says else."""

    images: Iterable[ImportedImage]
    total: int | None
    places: list[str]


def find_labels(labels: str) -> Labels:
    """COCO or LVIS (a JSON, or a folder with annotations.json), SA-1B (a JSON, or a folder of them), WebDataset (an
    archive, or a folder of them), the Hugging Face layout, Label Studio's JSON export; on disk or in a bucket.

    Raises ValueError for a place without labels, and while iterating for labels that are broken.
    """
    labels = absolute(labels)
    info = file_info(labels)
    if info is not None and info["type"] == "file" and is_archive(labels):
        return Labels(webdataset_images([labels]), None, [_parent(labels)])
    if labels.lower().endswith(".json") and (info is None or info["type"] == "file"):
        return _from_file(labels)
    root = labels.rstrip("/")
    folder = Folder(labels)
    if folder.exists(ANNOTATIONS):
        return _from_file(f"{root}/{ANNOTATIONS}")
    if tables := folder.names("data", "", ".parquet"):
        return Labels(huggingface_images(folder, tables), None, [root])
    if archives := [name for name in folder.names("", "", "") if is_archive(name)]:
        return Labels(webdataset_images([f"{root}/{name}" for name in archives]), None, [root])
    if records := folder.names("", "", ".json"):
        return Labels(_each(root, records), len(records), [root, f"{root}/images"])
    raise ValueError(f"labels: {labels!r} holds no JSON, tar or data/*.parquet; give a file or folder of labels")


def _from_file(path: str) -> Labels:
    folder, name = split_file(path)
    try:
        data = folder.read(name)
    except OSError as error:
        raise ValueError(f"labels: {path!r} cannot be read ({error}); give a JSON file or a folder") from None
    images = _reader(data)(data, path)
    return Labels(images, len(images), [_parent(path), f"{_parent(path)}/images"])


def _reader(data: bytes) -> Callable[[bytes, str], list[ImportedImage]]:
    """By what a file begins with: Label Studio's tasks are a list, SA-1B's record names one `image`."""
    if data.lstrip()[:1] == b"[":
        return label_studio_images
    if b'"images"' not in data and b'"image"' in data:
        return lambda data, where: [sa1b_image(data, where)]
    return coco_images


def _each(root: str, names: list[str]) -> Iterator[ImportedImage]:
    for name in names:
        yield sa1b_image(read_source(f"{root}/{name}", None, None), f"{root}/{name}")


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "."
