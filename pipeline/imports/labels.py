"""What every kind of labels becomes before it is a row of the record."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LabelledMask:
    """`annotation` holds COCO's fields and SA-1B's, as the labels say them: nothing of it is checked yet. `tags` are
    its categories.

    Its `segmentation` is any of COCO's three forms, or {"size": …, "brush": …} with Label Studio's bytes. `corrects` is
    the name that the mask was given out by, where the tool kept it: its `mask_id`, or Label Studio's name for a region.
    """

    annotation: dict[str, Any]
    tags: list[str] = field(default_factory=list)
    corrects: str | None = None


@dataclass(frozen=True)
class ImportedImage:
    """One image's labels. `picture` is a file name to look for, or a URI; `data` its bytes where the labels hold them.

    Without `height` and `width` any picture will do. `round` is the one the masks were given out from. `problem` says
    why the labels cannot be used.
    """

    image_id: str
    picture: str
    height: int | None
    width: int | None
    masks: list[LabelledMask]
    origin: str
    data: bytes | None = None
    round: int | None = None
    problem: str | None = None


def failed_image(name: str, picture: str, where: str, problem: str) -> ImportedImage:
    """An image whose labels cannot be read."""
    return ImportedImage(name, picture, None, None, [], where.rpartition("/")[2], problem=problem)
