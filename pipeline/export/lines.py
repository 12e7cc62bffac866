"""Layouts with one JSON file for all images: each slice leaves its lines, and the file is put together from them.

A line is one image with its annotations, still without the running numbers, so that slices can be written in any
order, at once, and after a kill only those that are missing; memory holds the lines of one slice.
"""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.export.job import STATE, Job
from pipeline.export.records import to_line


def write_lines(records: list[dict[str, Any]], place: str, name: str, job: Job) -> str:
    """Leaves `records` ({"image": …, "annotations": […]}) for `join_lines`; the file's name."""
    path = f"{STATE}/{place}{name}.jsonl"
    job.folder.write(path, b"".join(to_line(one) + b"\n" for one in records))
    return path


def join_lines(job: Job, place: str, categories: list[dict[str, Any]], number_annotations: bool) -> None:
    """Writes annotations.json in `place`: images, and annotations where that is wanted, are numbered from 1 in the
    order of the slices."""
    info = {"description": f"exported from {job.source}", "version": "1.0"}
    with job.folder.replacing(f"{place}annotations.json") as file:
        file.write(b'{"info": ' + to_line(info) + b', "categories": ' + to_line(categories) + b', "images": [')
        for number, record in enumerate(_records(job, place), start=1):
            file.write((b"\n" if number == 1 else b",\n") + to_line({"id": number, **record["image"]}))
        file.write(b'],\n"annotations": [')
        count = 0
        for number, record in enumerate(_records(job, place), start=1):
            for one in record["annotations"]:
                count += 1
                identity = {"id": count} if number_annotations else {}
                file.write((b"\n" if count == 1 else b",\n") + to_line({**identity, "image_id": number, **one}))
        file.write(b"]}\n")


def _records(job: Job, place: str) -> Iterator[dict[str, Any]]:
    for path in job.folder.names(f"{STATE}/{place}".rstrip("/"), "round-", ".jsonl"):
        for line in job.folder.read(path).splitlines():
            yield json.loads(line)
