"""SA-1B's JSON files, and WebDataset archives that hold them, as labelled images."""

import json
from collections.abc import Iterator

from pipeline.imports.labels import ImportedImage, LabelledMask, checked_size
from pipeline.sources.files import IMAGE_SUFFIXES
from stages.address import Address, sample_key, suffix_of
from stages.decode_image import describe
from stages.read_source import index_archive, read_source
from stages.tar_index import TarIndex


def sa1b_image(data: bytes, where: str, picture: str | None = None) -> ImportedImage:
    """One of SA-1B's files; `picture` where it is known better than by the record. Raises ValueError."""
    try:
        content = json.loads(data)
        image, annotations = content["image"], content["annotations"]
        masks = [LabelledMask(one, [], one.get("mask_id")) for one in annotations]
        name = image["file_name"]
        height, width = checked_size(image, where)
        identity = str(image.get("source_id") or name)
        return ImportedImage(identity, picture or str(name), height, width, masks, where.rpartition("/")[2])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: not one of SA-1B's files ({describe(error)}); mend it or leave it out") from None


def webdataset_images(archives: list[str]) -> Iterator[ImportedImage]:
    """Every JSON member of the archives, with its picture. An archive that is damaged is one more image, with that as
    its problem. Raises ValueError."""
    for archive in archives:
        index = index_archive(archive)
        pictures = _pictures(index)
        for name, member in index.members.items():
            if suffix_of(name) == ".json":
                uri = str(Address(archive, name))
                picture = pictures.get(name)
                data = read_source(uri, member.offset, member.size)
                yield sa1b_image(data, uri, None if picture is None else str(Address(archive, picture)))
        if index.damage is not None:
            origin = archive.rpartition("/")[2]
            yield ImportedImage(origin, archive, None, None, [], origin, problem=index.damage)


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
