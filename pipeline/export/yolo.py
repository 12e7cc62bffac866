"""YOLO segmentation: labels/NAME.txt beside images/NAME, a polygon a mask, and data.yaml.

The format is that of Ultralytics' segmentation datasets (docs.ultralytics.com/datasets/segment): a line is the class
from 0 and x y of each point, as shares of the width and height.
"""

from typing import Any

import numpy as np
import yaml

from models.masks.rle import decode_patch
from pipeline.export.job import Item, Job, Written
from pipeline.export.polygons import outline
from pipeline.export.split import SPLITS


def write_slice(items: list[Item], place: str, name: str, job: Job) -> Written:
    """The pictures in images/, the polygons in labels/; both have a folder for each split."""
    written: list[str] = []
    lost = 0
    for item in items:
        lines = [line for index in range(len(item.row["masks"])) if (line := _line(item.row, index, job))]
        lost += len(item.row["masks"]) - len(lines)
        written += job.save_picture(item, f"images/{place}")
        job.folder.write(f"labels/{place}{item.name}.txt", "".join(lines).encode())
        written.append(f"labels/{place}{item.name}.txt")
    return Written(written, lost)


def finish(job: Job) -> None:
    """data.yaml; without a split the same pictures are named for training and validation, as the format asks."""
    places = dict(zip(SPLITS, job.places if len(job.places) > 1 else ("", ""), strict=False))
    content: dict[str, Any] = {name: f"images/{place}".rstrip("/") for name, place in places.items()}
    content["names"] = {number - 1: name for name, number in job.categories.items()}
    job.folder.write("data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def _line(row: dict[str, Any], index: int, job: Job) -> str:
    """Empty for a mask without a pixel."""
    mask, height, width = row["masks"][index], row["height"], row["width"]
    x, y, w, h = mask["bbox"]
    if not mask["area"]:
        return ""
    if min(w, h) == 1:  # a line of pixels, whose middles span no area: four points within its outer ones
        points = np.array([[0.25, 0.25], [w - 0.25, 0.25], [w - 0.25, h - 0.25], [0.25, h - 0.25]])
    else:
        # the middle of a pixel, so that whoever cuts off the fraction finds the pixel again
        points = outline(decode_patch(row["rles"][index], height, width, (x, y, w, h))) + 0.5
    shares = (points + np.array([x, y])) / [width, height]
    return f"{job.category(mask) - 1} " + " ".join(f"{share:.6f}" for share in shares.reshape(-1)) + "\n"
