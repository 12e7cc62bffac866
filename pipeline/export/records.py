"""One image row as the JSON records of SA-1B and of COCO; both keep the run lengths bit for bit."""

import hashlib
import re
from typing import Any

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def stem(image_id: str) -> str:
    """A file name for an image: readable, the same in every export, unique, and never a path out of its folder.

    What is not plain in the image's id becomes `_`; eight hex digits of the id's hash keep names apart.
    """
    plain = _UNSAFE.sub("_", image_id.rpartition(".")[0] or image_id).strip("_")[-80:]
    return f"{plain}-{hashlib.sha256(image_id.encode()).hexdigest()[:8]}"


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
                "mask_id": mask["mask_id"],
                "parent_id": mask["parent_id"],
                "tags": mask["tags"] or [],
                "caption": mask["caption"],
            }
            for index, mask in enumerate(row["masks"])
        ],
    }


def coco_image(row: dict[str, Any], number: int, file_name: str) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": file_name,
        "width": row["width"],
        "height": row["height"],
        "source_id": row["image_id"],
    }


def coco_annotations(
    row: dict[str, Any], image_number: int, first_number: int, categories: dict[str, int]
) -> list[dict[str, Any]]:
    """COCO instances with compressed run lengths; a mask's category is its best tag, 1 without one.

    `categories` gives each tag's number and grows by the tags that are new.
    """
    return [
        {
            "id": first_number + index,
            "image_id": image_number,
            "category_id": _category(mask, categories),
            "segmentation": segmentation(row, index),
            "bbox": mask["bbox"],
            "area": mask["area"],
            "iscrowd": int(bool(mask["iscrowd"])),
            "predicted_iou": mask["predicted_iou"],
            "stability_score": mask["stability_score"],
            "mask_id": mask["mask_id"],
        }
        for index, mask in enumerate(row["masks"])
    ]


def segmentation(row: dict[str, Any], index: int) -> dict[str, Any]:
    """COCO's compressed run lengths as JSON holds them."""
    return {"size": [row["height"], row["width"]], "counts": row["rles"][index].decode("ascii")}


def _category(mask: dict[str, Any], categories: dict[str, int]) -> int:
    tags = mask["tags"]
    if not tags:
        return 1
    best = max(tags, key=lambda tag: tag["score"] or 0.0)["name"]
    return categories.setdefault(best, len(categories) + 1)
