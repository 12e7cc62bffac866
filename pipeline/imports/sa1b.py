"""SA-1B's JSON files, WebDataset archives that hold them, and what segment-anything's own script leaves, as images."""

from collections.abc import Iterator
from typing import Any

from pipeline.imports.labels import ImportedImage, LabelledMask, failed_image
from pipeline.labels.notes import shown
from pipeline.labels.values import as_ints, as_size, as_text, parse_json
from pipeline.sources.files import IMAGE_SUFFIXES
from stages.address import Address, sample_key, suffix_of
from stages.read_source import index_archive, read_source
from stages.tar_index import TarIndex


def sa1b_image(content: Any, where: str, picture: str | None = None) -> ImportedImage:
    """One of SA-1B's files; `picture` where it is known better than by the record. Raises ValueError."""
    image = content.get("image") if isinstance(content, dict) else None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(image, dict) or not isinstance(annotations, list):
        raise ValueError(f"{where}: not one of SA-1B's files (no image with annotations); mend it or leave it out")
    name, size = as_text(image.get("file_name")), as_size(image)
    if name is None or size is None or not all(isinstance(one, dict) for one in annotations):
        lack = "annotations are no records" if name and size else "its image lacks a file_name, height or width"
        raise ValueError(f"{where}: not one of SA-1B's files ({lack}); mend it or leave it out")
    identity = as_text(image.get("source_id")) or name
    return ImportedImage(identity, picture or name, *size, _masks(annotations), where.rpartition("/")[2])


def amg_image(content: list[Any], where: str, picture: str) -> ImportedImage:
    """The masks that segment-anything's `amg.py --convert-to-rle` lists beside a picture. Raises ValueError."""
    if not all(isinstance(one, dict) for one in content):
        raise ValueError(f"{where}: not a list of masks ({shown(content[0])}); mend it or leave it out")
    first = content[0].get("segmentation")
    size = as_ints(first.get("size"), 2) if isinstance(first, dict) else None
    height, width = size or (None, None)
    return ImportedImage(picture, picture, height, width, _masks(content), where.rpartition("/")[2])


def webdataset_images(archives: list[str]) -> Iterator[ImportedImage]:
    """Every JSON member of the archives, with its picture. One that is broken is an image that has failed, and an
    archive that is damaged is one more."""
    for archive in archives:
        index = index_archive(archive)
        pictures = _pictures(index)
        for name, member in index.members.items():
            if suffix_of(name) == ".json":
                uri = str(Address(archive, name))
                picture = str(Address(archive, pictures[name])) if name in pictures else None
                try:
                    data = read_source(uri, member.offset, member.size)
                    yield sa1b_image(parse_json(data, uri), uri, picture)
                except ValueError as error:
                    yield failed_image(pictures.get(name, name), picture or uri, uri, str(error))
        if index.damage is not None:
            yield failed_image(archive.rpartition("/")[2], archive, archive, index.damage)


def _pictures(index: TarIndex) -> dict[str, str]:
    """For each JSON member the picture of the same name but for the suffix, else the only one of the same key (one
    record may be `a.masks.json`, its picture `a.jpg`)."""
    by_stem: dict[str, str] = {}
    by_key: dict[str, list[str]] = {}
    for name in index.members:
        if suffix_of(name) in IMAGE_SUFFIXES:
            by_stem[_stem(name)] = name
            by_key.setdefault(sample_key(name), []).append(name)
    found: dict[str, str] = {}
    for name in index.members:
        of_key = by_key.get(sample_key(name), [])
        picture = by_stem.get(_stem(name)) or (of_key[0] if len(of_key) == 1 else None)
        if picture is not None:
            found[name] = picture
    return found


def _stem(name: str) -> str:
    return name[: len(name) - len(suffix_of(name))]


def _masks(annotations: list[dict[str, Any]]) -> list[LabelledMask]:
    return [LabelledMask(one, [], as_text(one.get("mask_id"))) for one in annotations]
