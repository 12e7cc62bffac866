"""COCO and LVIS files as labelled images."""

from pipeline.imports.labels import ImportedImage, LabelledMask, failed_image
from pipeline.labels.crowds import AS_MASKS, is_brush, only_crowds
from pipeline.labels.notes import Notes, shown
from pipeline.labels.references import Record, check_references, checked_lists
from pipeline.labels.values import as_size, as_text


def coco_images(content: Record, where: str, notes: Notes) -> list[ImportedImage]:
    """The images of a COCO or LVIS file, those without masks too. Raises ValueError for references that are wrong."""
    labels = check_references(checked_lists(content, where), where)
    only = only_crowds(one for some in labels.annotations.values() for one in some)
    images = []
    for identity, record in labels.images.items():
        masks = []
        for one in labels.annotations.get(identity, []):
            place = f"annotation {shown(one.get('id'))} of image {shown(identity)}"
            tag = labels.tag(one, notes, place)
            if is_brush(one, only):
                notes.add(AS_MASKS, place)
                one = one | {"iscrowd": 0}
            masks.append(LabelledMask(one, [] if tag is None else [tag], as_text(one.get("mask_id"))))
        images.append(_image(record, masks, where))
    return images


def _image(record: Record, masks: list[LabelledMask], where: str) -> ImportedImage:
    # LVIS names its pictures by their address in COCO
    name = as_text(record.get("file_name")) or (as_text(record.get("coco_url")) or "").rpartition("/")[2]
    identity, size = as_text(record.get("source_id")) or name, as_size(record)
    sized = any(record.get(side) is not None for side in ("height", "width"))
    if not name or (sized and size is None):
        problem = f"image {shown(record['id'])} lacks a file_name, height or width; COCO files need them"
        return failed_image(identity or f"image {shown(record['id'])}", name, where, problem)
    height, width = size or (None, None)
    return ImportedImage(identity, name, height, width, masks, where.rpartition("/")[2])
