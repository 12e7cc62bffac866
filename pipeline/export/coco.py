"""COCO instances: annotations.json with compressed run lengths, and the pictures in images/."""

from typing import Any

from pipeline.export.job import Item, Job, Written
from pipeline.export.lines import join_lines, write_lines
from pipeline.export.records import image_record, segmentation


def write_slice(items: list[Item], place: str, name: str, job: Job) -> Written:
    """The pictures, and the lines of annotations.json."""
    written: list[str] = []
    for item in items:
        written += job.save_picture(item, f"{place}images/")
    records = [
        {"image": image_record(item.row, item.file_name), "annotations": _annotations(item.row, job)} for item in items
    ]
    return Written([*written, write_lines(records, place, name, job)])


def finish(job: Job) -> None:
    """annotations.json of each split."""
    for place in job.places:
        categories = [{"id": number, "name": name} for name, number in job.categories.items()]
        join_lines(job, place, categories, number_annotations=True)


def _annotations(row: dict[str, Any], job: Job) -> list[dict[str, Any]]:
    return [
        {
            "category_id": job.category(mask),
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
