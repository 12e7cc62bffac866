"""Label Studio's JSON export as labelled images: what people made of the predictions, or drew anew."""

import json
from typing import Any
from urllib.parse import unquote

from pipeline.export.brush import from_brush
from pipeline.export.label_studio import NO_TAG
from pipeline.imports.labels import ImportedImage, LabelledMask
from stages.decode_image import describe

_LOCAL = "local-files/?d="


def label_studio_images(data: bytes, where: str) -> list[ImportedImage]:
    """The tasks that somebody has finished, each with its last annotation; those without one are left out.

    Brushes and polygons are masks; another shape makes its image a failed one. Raises ValueError for a file that is no
    such export.
    """
    try:
        tasks = [task for task in json.loads(data) if not isinstance(task["data"], str)]
        finished = [(task["data"], one) for task in tasks if (one := _last_annotation(task)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where}: not Label Studio's JSON ({describe(error)}); export the project as JSON, not JSON-MIN"
        ) from None
    return [_image(task, annotation, where) for task, annotation in finished]


def _last_annotation(task: dict[str, Any]) -> dict[str, Any] | None:
    finished = [one for one in task["annotations"] if not one.get("was_cancelled")]
    return finished[-1] if finished else None


def _image(task: dict[str, Any], annotation: dict[str, Any], where: str) -> ImportedImage:
    address = str(task.get("image", ""))
    picture = unquote(address.partition(_LOCAL)[2]) if _LOCAL in address else address
    name = str(task.get("image_id") or picture.rpartition("/")[2])
    origin = where.rpartition("/")[2]
    height, width = task.get("height"), task.get("width")
    masks: list[LabelledMask] = []
    problem = None
    try:
        results = annotation["result"]
        named = {one["id"]: names for one in results if (names := _labels(one))}
        for one in results:
            if (mask := _mask(one, named.get(one["id"], []))) is not None:
                height, width = one["original_height"], one["original_width"]
                masks.append(mask)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"the annotation cannot be read ({describe(error)})"
    return ImportedImage(name, picture, height, width, masks, origin, round=task.get("round"), problem=problem)


def _labels(result: dict[str, Any]) -> list[str]:
    value = result.get("value", {})
    names = value.get(result["type"]) or value.get("labels") or []
    return [str(name) for name in names if isinstance(names, list) and name != NO_TAG]


def _mask(result: dict[str, Any], tags: list[str]) -> LabelledMask | None:
    """None for what is no shape: choices, texts, relations."""
    value = result.get("value", {})
    if not {"rle", "points", "x"} & value.keys():
        return None
    if result.get("image_rotation"):
        raise ValueError("the picture was turned while it was labelled; turn it back and export again")
    height, width = result["original_height"], result["original_width"]
    if "rle" in value:
        counts = from_brush(value["rle"], height, width)
        segmentation: Any = {"size": [height, width], "counts": counts}
    elif "points" in value:  # in per cent of the picture's sides
        segmentation = [[one for x, y in value["points"] for one in (x * width / 100, y * height / 100)]]
    else:
        raise ValueError(f"a {result['type']} is no mask; draw brushes or polygons")
    return LabelledMask({"segmentation": segmentation}, tags, str(result["id"]))
