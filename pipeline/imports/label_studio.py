"""Label Studio's JSON export as labelled images: what people made of the predictions, or drew anew."""

from collections import Counter
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from pipeline.export.label_studio import NO_TAG
from pipeline.imports.labels import ImportedImage, LabelledMask, failed_image
from pipeline.imports.pictures import path_of
from pipeline.labels.notes import Notes, shown
from pipeline.labels.values import as_int, as_number, as_size, as_text

NO_RECORD = "left out: task that is no record"
UNFINISHED = "left out: task that nobody has finished"
_LOCAL = "local-files/?d="
_UPLOADS = "/data/"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def label_studio_images(content: list[Any], where: str, notes: Notes) -> list[ImportedImage]:
    """The tasks that somebody has finished, each with its last annotation; those without one are left out.

    Brushes and polygons are masks; another shape makes its image a failed one. What is no shape, as a choice or a
    relation, does not count.
    """
    images = []
    for number, task in enumerate(content):
        data = task.get("data") if isinstance(task, dict) else None
        annotations = task.get("annotations") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(annotations, list):
            notes.add(NO_RECORD, f"task {number}: {shown(task)}")
            continue
        finished = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
        if finished:
            images.append(_image(data, finished[-1], f"task {shown(task.get('id', number))}", where))
        else:
            notes.add(UNFINISHED, f"task {shown(task.get('id', number))}")
    return _by_short_names(images)


def _by_short_names(images: list[ImportedImage]) -> list[ImportedImage]:
    """Pictures without an id of their own go by their files' names, where no two share one."""
    short = [one.picture.rpartition("/")[2] or one.image_id for one in images]
    times = Counter(short)
    return [
        replace(one, image_id=name) if one.image_id == one.picture and times[name] == 1 else one
        for one, name in zip(images, short, strict=True)
    ]


def _image(task: dict[str, Any], annotation: dict[str, Any], number: str, where: str) -> ImportedImage:
    try:
        picture = _picture(task)
    except ValueError as error:
        return failed_image(_identity(task) or number, "", where, str(error))
    name = _identity(task) or picture
    try:
        size, masks = _masks(annotation)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else "it is not as Label Studio writes it"
        return failed_image(name, picture, where, f"the annotation cannot be read ({reason})")
    height, width = size or as_size(task) or (None, None)
    round_number = as_int(task.get("round"))
    return ImportedImage(name, picture, height, width, masks, where.rpartition("/")[2], round=round_number)


def _identity(task: dict[str, Any]) -> str | None:
    return as_text(task.get("image_id"))


def _picture(task: dict[str, Any]) -> str:
    """The picture's path or address, below the folder that Label Studio serves or had it uploaded to."""
    address = as_text(task.get("image"))
    if address is None:
        texts = [value for value in task.values() if as_text(value)]
        addresses = [one for one in texts if path_of(one).lower().endswith(_PICTURES)] if len(texts) > 1 else texts
        if len(addresses) != 1:
            names = ", ".join(shown(name) for name in list(task)[:8])
            raise ValueError(f"which of its fields ({names}) names the picture cannot be told; call it image")
        address = str(as_text(addresses[0]))
    if _LOCAL in address:
        return unquote(address.partition(_LOCAL)[2])
    path = path_of(address)
    return path.removeprefix(_UPLOADS) if path.startswith(_UPLOADS) else address


def _masks(annotation: dict[str, Any]) -> tuple[tuple[int, int] | None, list[LabelledMask]]:
    """The size that the shapes tell, and their masks."""
    results = [one for one in annotation["result"] if isinstance(one, dict)]
    named = {str(one["id"]): names for one in results if "id" in one and (names := _labels(one))}
    size, masks = None, []
    for one in results:
        if (mask := _mask(one, named.get(str(one.get("id")), []))) is not None:
            size = size or _size(one)
            masks.append(mask)
    return size, masks


def _labels(result: dict[str, Any]) -> list[str]:
    value = result.get("value")
    if not isinstance(value, dict):
        return []
    names = value.get(str(result.get("type"))) or value.get("labels") or []
    texts = [as_text(name) for name in names] if isinstance(names, list) else []
    return [name for name in texts if name is not None and name != NO_TAG]


def _mask(result: dict[str, Any], tags: list[str]) -> LabelledMask | None:
    """None for what is no shape: choices, texts, relations."""
    value = result.get("value")
    if not isinstance(value, dict) or not {"rle", "points", "x"} & value.keys():
        return None
    if result.get("image_rotation"):
        raise ValueError("the picture was turned while it was labelled; turn it back and export again")
    height, width = _size(result)
    if "rle" in value:
        segmentation: Any = {"size": [height, width], "brush": value["rle"]}
    elif "points" in value:  # in per cent of the picture's sides
        segmentation = [[one for x, y in value["points"] for one in (_share(x, width), _share(y, height))]]
    else:
        raise ValueError(f"a {shown(result.get('type'))} is no mask; draw brushes or polygons")
    name = str(result["id"]) if "id" in result else None
    return LabelledMask({"id": name, "segmentation": segmentation}, tags, name)


def _size(result: dict[str, Any]) -> tuple[int, int]:
    size = as_size({side: result.get(f"original_{side}") for side in ("height", "width")})
    if size is None:
        raise ValueError("a shape does not tell the picture's size; export the project as JSON")
    return size


def _share(per_cent: Any, side: int) -> float:
    number = as_number(per_cent)
    if number is None:
        raise ValueError("a polygon's point is no number")
    return number * side / 100
