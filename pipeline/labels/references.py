"""A COCO file's images, annotations and categories, with what names them checked.

An id may be a whole number or a text; the text of a number is that number, as tools write both in one file.
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.labels.notes import Notes, shown
from pipeline.labels.values import as_identity, as_text, parse_json

Record = dict[str, Any]
Identity = int | str

NO_TAG = "segment"  # the category of a mask without a tag, in our exports
UNKNOWN_CATEGORY = "untagged: unknown category"
UNNAMED_CATEGORY = "untagged: category without a name"
DOUBLE_CATEGORY = "untagged: category of two names"


@dataclass(frozen=True)
class CocoLabels:
    """`images` by id, in the file's order; `annotations` by the id of their image; `categories` are their names, None
    for one that has none or two."""

    where: str
    images: dict[Identity, Record]
    annotations: dict[Identity, list[Record]]
    categories: dict[Identity, str | None]
    twice_named: set[Identity] = field(default_factory=set)

    def tag(self, annotation: Record, notes: Notes, where: str) -> str | None:
        """The name of the annotation's category, or None; a note says where it names one that is not there."""
        value = annotation.get("category_id")
        if value is None:
            return None
        identity = as_identity(value)
        if identity is None or identity not in self.categories:
            notes.add(UNKNOWN_CATEGORY, f"{where}, category {shown(value)}")
            return None
        name = self.categories[identity]
        if name is None:
            reason = DOUBLE_CATEGORY if identity in self.twice_named else UNNAMED_CATEGORY
            notes.add(reason, f"{where}, category {shown(value)}")
        return None if name == NO_TAG else name


def parse_coco(data: bytes, where: str) -> Record:
    """A COCO file's content, its images and annotations lists of records. Raises ValueError if it is none."""
    return checked_lists(parse_json(data, f"labels {where}"), where)


def checked_lists(content: Any, where: str) -> Record:
    """`parse_coco` of what the file holds."""
    for name in ("images", "annotations"):
        listed = content.get(name) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(record, dict) for record in listed):
            raise ValueError(f"labels {where}: {name} is not a list of records; give a COCO JSON file")
    return dict(content)


def check_references(coco: Record, where: str) -> CocoLabels:
    """The file's records by their ids.

    Raises ValueError with one line for an image without an id or with another's, and for an annotation of an image
    that is not listed: whose masks those are cannot be told.
    """
    images: dict[Identity, Record] = {}
    num_twins, twin = 0, None
    for record in coco["images"]:
        identity = _identity(record, "id", "image", where)
        if identity in images:
            num_twins, twin = num_twins + 1, record["id"] if twin is None else twin
        images[identity] = record
    if num_twins:
        raise ValueError(
            f"{where}: {num_twins} images share their id with another (the first is {shown(twin)}); give each its own"
        )
    annotations: dict[Identity, list[Record]] = {}
    orphans = []
    for record in coco["annotations"]:
        identity = _identity(record, "image_id", "annotation", where)
        if identity in images:
            annotations.setdefault(identity, []).append(record)
        else:
            orphans.append(record)
    if orphans:
        raise ValueError(
            f"{where}: {len(orphans)} masks without an image (annotation {shown(orphans[0].get('id'))} is of image "
            f"{shown(orphans[0]['image_id'])}, which is not listed); list the image or remove its masks"
        )
    return CocoLabels(where, images, annotations, *_categories(coco.get("categories"), where))


def _categories(listed: Any, where: str) -> tuple[dict[Identity, str | None], set[Identity]]:
    if listed is None:
        return {}, set()
    if not isinstance(listed, list):
        raise ValueError(f"labels {where}: categories is not a list of records; give a COCO JSON file")
    names: dict[Identity, str | None] = {}
    twice = set()
    for record in listed:
        identity = as_identity(record.get("id")) if isinstance(record, dict) else None
        if identity is None:
            continue  # masks of it have an unknown category, and are counted
        value = record.get("name")
        name = as_text(str(value) if isinstance(value, int | float) else value)
        if identity in names and names[identity] != name:
            twice.add(identity)
        names[identity] = name
    return names | dict.fromkeys(twice), twice


def _identity(record: Record, name: str, kind: str, where: str) -> Identity:
    if name not in record:
        raise ValueError(f"{where}: {kind} {shown(record.get('id', record))} has no {name}; COCO files need one")
    identity = as_identity(record[name])
    if identity is None:
        raise ValueError(
            f"{where}: {kind} {shown(record.get('id', record))}: {name} is {shown(record[name])}, no number or text"
        )
    return identity
