"""What every kind of labels becomes before it is a row of the record."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LabelledMask:
    """`annotation` holds COCO's fields (`segmentation` in any of its three forms) and SA-1B's; `tags` its categories.

    `corrects` is the name that the mask was given out by, where the tool kept it: its `mask_id`, or Label Studio's
    name for a region.
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


def checked_size(image: dict[str, Any], where: str) -> tuple[int, int]:
    """(height, width) of a COCO or SA-1B image record. Raises ValueError where they are no sizes."""
    height, width = image.get("height"), image.get("width")
    if not all(isinstance(size, int) and size > 0 for size in (height, width)):
        raise ValueError(f"{where}: image {image.get('id')} lacks a file_name, height or width; COCO files need them")
    assert isinstance(height, int) and isinstance(width, int)
    return height, width
