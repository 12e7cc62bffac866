"""COCO panoptic: a PNG an image whose colours are the segments' ids, and annotations.json.

The format is that of the panoptic challenge (cocodataset.org/#format-data): id = R + 256 G + 65536 B, 0 where there is
no segment. A pixel belongs to one segment only, so masks that overlap lose what others cover: smaller ones lie on top.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

from models.masks.rle import decode_patch
from pipeline.export.job import Item, Job, Written
from pipeline.export.lines import join_lines, write_lines
from pipeline.export.records import image_record


def paint_segments(rles: list[bytes], boxes: list[list[int]], height: int, width: int) -> np.ndarray:
    """Which mask each pixel shows: its place from 1 in the list, or 0; int32 (height, width).

    Masks are painted from the largest to the smallest, the earlier of equal ones last. boxes: x, y, w, h of each.
    """
    shown = np.zeros((height, width), np.int32)
    patches = [decode_patch(rle, height, width, (x, y, w, h)) for rle, (x, y, w, h) in zip(rles, boxes, strict=True)]
    for index in sorted(range(len(rles)), key=lambda one: (-int(patches[one].sum()), -one)):
        x, y, w, h = boxes[index]
        shown[y : y + h, x : x + w][patches[index].astype(bool)] = index + 1
    return shown


def write_slice(items: list[Item], place: str, name: str, job: Job) -> Written:
    """The pictures, the PNGs in panoptic/, and the lines of annotations.json."""
    written: list[str] = []
    records, hidden = [], 0
    for item in items:
        written += job.save_picture(item, f"{place}images/")
        row = item.row
        shown = paint_segments(row["rles"], [mask["bbox"] for mask in row["masks"]], row["height"], row["width"])
        job.folder.write(f"{place}panoptic/{item.name}.png", _png(shown))
        written.append(f"{place}panoptic/{item.name}.png")
        segments = _segments(row, shown, job)
        hidden += len(row["masks"]) - len(segments)
        annotation = {"file_name": f"{item.name}.png", "segments_info": segments}
        records.append({"image": image_record(row, item.file_name), "annotations": [annotation]})
    return Written([*written, write_lines(records, place, name, job)], hidden)


def finish(job: Job) -> None:
    """annotations.json of each split."""
    for place in job.places:
        categories = [
            {"id": number, "name": name, "supercategory": name, "isthing": 1, "color": _colour(number)}
            for name, number in job.categories.items()
        ]
        join_lines(job, place, categories, number_annotations=False)


def _segments(row: dict[str, Any], shown: np.ndarray, job: Job) -> list[dict[str, Any]]:
    """Of the masks that can be seen; area and bbox are those of what can."""
    found = []
    for index, mask in enumerate(row["masks"], start=1):
        rows, columns = np.nonzero(shown == index)
        if len(rows):
            x, y = int(columns.min()), int(rows.min())
            found.append(
                {
                    "id": index,
                    "category_id": job.category(mask),
                    "area": len(rows),
                    "bbox": [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
                    "iscrowd": int(bool(mask["iscrowd"])),
                    "mask_id": mask["mask_id"],
                }
            )
    return found


def _png(shown: np.ndarray) -> bytes:
    colours = np.stack([shown & 255, (shown >> 8) & 255, shown >> 16], axis=-1).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(colours).save(sink, "PNG")
    return sink.getvalue()


def _colour(number: int) -> list[int]:
    """Some colour of its own for each category."""
    return [number * 67 % 256, number * 131 % 256, number * 197 % 256]
