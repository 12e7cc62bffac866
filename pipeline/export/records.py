"""One image row as SA-1B's JSON record, and what several layouts write alike; run lengths are kept bit for bit."""

import hashlib
import re
from typing import Any

from pipeline.json_text import json_text

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
HASH_DIGITS = 16  # 64 bits: two of a billion images meet by chance in one dataset of 37


def stem(image_id: str) -> str:
    """A file name for an image: readable, the same in every export, unique, and never a path out of its folder.

    A function of the id alone, so that a file which another tool gives back under its name can be matched. What is not
    plain in the id becomes `_`; HASH_DIGITS hex digits of the id's hash keep names apart.
    """
    plain = _UNSAFE.sub("_", image_id.rpartition(".")[0] or image_id).strip("_")[-80:]
    return f"{plain}-{hashlib.sha256(image_id.encode()).hexdigest()[:HASH_DIGITS]}"


def sa1b_record(row: dict[str, Any], number: int, file_name: str) -> dict[str, Any]:
    """SA-1B's layout (the data card of «Segment Anything»); `mask_id` and what SA-1B has no field for come on top."""
    return {
        "image": {
            "image_id": number,
            "width": row["width"],
            "height": row["height"],
            "file_name": file_name,
            "source_id": row["image_id"],
        },
        "annotations": [
            {
                "id": index,
                "segmentation": segmentation(row, index),
                "bbox": mask["bbox"],
                "area": mask["area"],
                "predicted_iou": mask["predicted_iou"],
                "stability_score": mask["stability_score"],
                "crop_box": mask["crop_box"],
                "point_coords": None if mask["point"] is None else [mask["point"]],
                "iscrowd": int(bool(mask["iscrowd"])),
                "mask_id": mask["mask_id"],
                "parent_id": mask["parent_id"],
                "tags": mask["tags"] or [],
                "caption": mask["caption"],
            }
            for index, mask in enumerate(row["masks"])
        ],
    }


def image_record(row: dict[str, Any], file_name: str) -> dict[str, Any]:
    """An entry of COCO's `images`, still without its id."""
    return {
        "file_name": file_name,
        "width": row["width"],
        "height": row["height"],
        "source_id": row["image_id"],
    }


def segmentation(row: dict[str, Any], index: int) -> dict[str, Any]:
    """COCO's compressed run lengths as JSON holds them."""
    return {"size": [row["height"], row["width"]], "counts": row["rles"][index].decode("ascii")}


def to_line(content: Any) -> bytes:
    """JSON on one line."""
    return json_text(content, ensure_ascii=False).encode()
