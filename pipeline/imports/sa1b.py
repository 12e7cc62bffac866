"""SA-1B's JSON files, and WebDataset archives that hold them, as labelled images."""

import json
from collections.abc import Iterator

from pipeline.imports.labels import ImportedImage, LabelledMask, checked_size
from stages.decode_image import describe
from stages.read_source import open_archive, read_source, tar_members


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
    """Every JSON member of the archives, with the picture that has the same key. Raises ValueError."""
    for archive in archives:
        with open_archive(archive) as file:
            members = list(tar_members(file))
        keyed: dict[str, str] = {}
        for member in members:
            key, _, ending = member.name.partition(".")
            if ending != "json":
                keyed.setdefault(key, member.name)
        for member in members:
            key, _, ending = member.name.partition(".")
            if ending == "json":
                data = read_source(f"{archive}!{member.name}", member.offset, member.size)
                picture = f"{archive}!{keyed[key]}" if key in keyed else None
                yield sa1b_image(data, f"{archive}!{member.name}", picture)
