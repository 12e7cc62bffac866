"""Masklets in the layouts of video datasets: SA-V's and YouTube-VIS's annotation files."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from models.masks.rle import bounding_boxes, compress_counts
from pipeline.export.records import stem
from pipeline.store.storage import Folder
from pipeline.video.masklets import Masklets

VideoLayout = Literal["sav", "youtube-vis"]


@dataclass
class VideoExportSummary:
    """What an export wrote."""

    output: str
    layout: str
    videos: int = 0
    masklets: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def export_masklets(
    masklets: Masklets, output: str, layout: VideoLayout, predicate: str | None = None
) -> VideoExportSummary:
    """Write the kept masklets (those for which the SQL predicate holds) as JSON into the folder `output`.

    `sav`: a file a video, `<video>_auto.json` by the video's `stem`, of SA-V's fields; `masklet[frame][object]` is an
    empty mask where the object is out of sight or not yet found. `youtube-vis`: one `annotations.json`, null where
    nothing is seen; a masklet's category is its best tag, `object` without one.
    """
    folder = Folder(output)
    summary = VideoExportSummary(output, layout)
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for rows in masklets.videos(predicate):
        summary.videos += 1
        summary.masklets += len(rows)
        if layout == "sav":
            folder.write(f"{stem(rows[0]['video_id'])}_auto.json", json.dumps(sav_record(rows)).encode())
            continue
        first = rows[0]
        videos.append(
            {
                "id": len(videos) + 1,
                "file_names": [f"{first['video_id']}#{frame}" for frame in range(first["num_frames"])],
                "length": first["num_frames"],
                "width": first["width"],
                "height": first["height"],
                "uri": first["uri"],
            }
        )
        for row in rows:
            name = max(row["tags"], key=lambda tag: tag["score"])["name"] if row["tags"] else "object"
            category = categories.setdefault(name, len(categories) + 1)
            place = {"id": len(annotations) + 1, "video_id": len(videos), "category_id": category}
            annotations.append(place | youtube_record(row))
    if layout == "youtube-vis":
        named = [{"id": number, "name": name} for name, number in categories.items()]
        content = {"videos": videos, "categories": named, "annotations": annotations}
        folder.write("annotations.json", json.dumps(content).encode())
    return summary


def sav_record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """SA-V's fields of the rows of one video."""
    first = rows[0]
    size, num_frames = [first["height"], first["width"]], first["num_frames"]
    times = first["frame_times"]
    empty = {"size": size, "counts": _empty(*size)}
    frames = [[empty] * len(rows) for _ in range(num_frames)]
    for index, row in enumerate(rows):
        for frame, rle, visible in _entries(row):
            if visible:
                frames[frame][index] = {"size": size, "counts": rle}
    mean = [sum(row["areas"]) / max(row["num_visible"], 1) for row in rows]
    return {
        "video_id": first["video_id"],
        "video_duration": times[-1] - times[0],
        "video_frame_count": num_frames,
        "video_height": size[0],
        "video_width": size[1],
        "video_resolution": size[0] * size[1],
        "video_uri": first["uri"],
        "masklet_num": len(rows),
        "masklet_id": [row["object_id"] for row in rows],
        "masklet_type": [row["source"] for row in rows],
        "masklet_first_appeared_frame": [float(row["first_frame"]) for row in rows],
        "masklet_frame_count": [row["num_visible"] for row in rows],
        "masklet_size_abs": mean,
        "masklet_size_rel": [area / (size[0] * size[1]) for area in mean],
        "masklet_visibility_changes": [
            sum(a != b for a, b in zip(row["visible"], row["visible"][1:], strict=False)) for row in rows
        ],
        "masklet_stability_score": [row["stability_scores"] for row in rows],
        "masklet": frames,
    }


def youtube_record(row: dict[str, Any]) -> dict[str, Any]:
    """YouTube-VIS's fields of one masklet."""
    size, num_frames = [row["height"], row["width"]], row["num_frames"]
    segmentations: list[dict[str, Any] | None] = [None] * num_frames
    boxes: list[list[int] | None] = [None] * num_frames
    sizes: list[int | None] = [None] * num_frames
    all_boxes = bounding_boxes(row["rles"], row["height"]).tolist()
    for (frame, rle, visible), box, area in zip(_entries(row), all_boxes, row["areas"], strict=True):
        if visible:
            segmentations[frame] = {"size": size, "counts": rle}
            boxes[frame], sizes[frame] = box, area
    return {
        "segmentations": segmentations,
        "bboxes": boxes,
        "areas": sizes,
        "width": row["width"],
        "height": row["height"],
        "iscrowd": 0,
        "score": row["predicted_iou"],
        "masklet_id": row["masklet_id"],
    }


def _entries(row: dict[str, Any]) -> Iterator[tuple[int, str, bool]]:
    for frame, rle, visible in zip(row["frame_indexes"], row["rles"], row["visible"], strict=True):
        yield frame, rle.decode("ascii"), visible


def _empty(height: int, width: int) -> str:
    return compress_counts(np.array([height * width]), np.array([1]))[0].decode("ascii")
