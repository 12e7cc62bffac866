"""Label Studio tasks whose predictions are the masks, for people to correct, and the labelling interface they need.

The layout of tasks and predictions is Label Studio's (labelstud.io/guide/predictions).
"""

import hashlib
from typing import Any
from xml.sax.saxutils import quoteattr

from pipeline.export.brush import to_brush
from pipeline.export.job import Item, Job, Written, best_tag
from pipeline.export.records import to_line

CONFIG = "label_config.xml"
NO_TAG = "segment"
# Label Studio serves files below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT under this address.
_LOCAL = "/data/local-files/?d="


def region_id(mask_id: str) -> str:
    """A mask's name in Label Studio, which an annotator's corrections keep."""
    return hashlib.sha256(mask_id.encode()).hexdigest()[:12]


def write_slice(items: list[Item], place: str, name: str, job: Job) -> Written:
    """The pictures, and one file of tasks to upload."""
    written: list[str] = []
    for item in items:
        written += job.save_picture(item, f"{place}images/")
    tasks = [_task(item, place) for item in items]
    path = f"{place}tasks/{name}.json"
    job.folder.write(path, to_line(tasks))
    return Written([*written, path])


def finish(job: Job) -> None:
    """The labelling interface, to paste into the project's settings."""
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in job.categories)
    text = (
        '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{labels}\n  </BrushLabels>\n</View>\n'
    )
    job.folder.write(CONFIG, text.encode())


def _task(item: Item, place: str) -> dict[str, Any]:
    row = item.row
    scores = [mask["predicted_iou"] for mask in row["masks"] if mask["predicted_iou"] is not None]
    prediction: dict[str, Any] = {
        "model_version": f"round {row['round']}",
        "result": [_region(row, index) for index in range(len(row["masks"]))],
    }
    if scores:
        prediction["score"] = sum(scores) / len(scores)
    address = item.file_name if item.picture is None else f"{_LOCAL}{place}images/{item.file_name}"
    kept = {name: row[name] for name in ("image_id", "round", "width", "height")}
    return {"data": {"image": address, **kept}, "predictions": [prediction]}


def _region(row: dict[str, Any], index: int) -> dict[str, Any]:
    mask, height, width = row["masks"][index], row["height"], row["width"]
    region: dict[str, Any] = {
        "id": region_id(mask["mask_id"]),
        "from_name": "label",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": to_brush(row["rles"][index], height, width),
            "brushlabels": [best_tag(mask["tags"]) if mask["tags"] else NO_TAG],
        },
    }
    if mask["predicted_iou"] is not None:
        region["score"] = mask["predicted_iou"]
    return region
