"""Check a round of masklets against its own promises."""

from collections.abc import Callable
from typing import Any

import numpy as np

from models.masks.rle import areas, decode_masks
from pipeline.errors import UnreadableError
from pipeline.store.masklet_round import MaskletRound
from stages.masklets import FRAME_COLUMNS


def verify_masklets(target: MaskletRound, report: Callable[[str], None]) -> tuple[int, int, int]:
    """Videos, failed ones and kept masklets; `report` is told what is wrong. Every run length is decoded."""
    part_of: dict[str, int] = {}
    ids: set[str] = set()
    num_failed, num_kept = 0, 0
    for part in target.parts():
        try:
            rows = target.read_part(part)
        except UnreadableError as error:
            report(str(error))
            continue
        for row in rows.to_pylist():
            video = row["video_id"]
            is_new = video not in part_of
            if part_of.setdefault(video, part) != part:
                report(f"{target.name}: video {video!r} stands in two parts, {part_of[video]} and {part}")
            if row["masklet_id"] is None:
                num_failed += row["status"] == "failed"
                if not is_new:
                    report(f"{target.name}: video {video!r} stands in it twice")
                if (row["status"] == "failed") != bool(row["error"]):
                    report(f"{video!r}: status {row['status']!r} and error {row['error']!r} disagree")
                continue
            if row["masklet_id"] in ids:
                report(f"{target.name}: masklet {row['masklet_id']!r} stands in it twice")
            ids.add(row["masklet_id"])
            num_kept += bool(row["keep"])
            for problem in _problems(row):
                report(f"{row['masklet_id']}: {problem}")
    return len(part_of), num_failed, num_kept


def _problems(row: dict[str, Any]) -> list[str]:
    lengths = {name: len(row[name]) for name in FRAME_COLUMNS}
    frames = row["frame_indexes"]
    if len(set(lengths.values())) > 1:
        return [f"its lists have unequal lengths: {lengths}"]
    found = []
    if frames != list(range(row["key_frame"], row["num_frames"])):
        found.append(f"frames {frames[:1]} to {frames[-1:]} are not those from key frame {row['key_frame']} on")
    counted = areas(row["rles"]).tolist()
    if counted != row["areas"]:
        first = int(np.flatnonzero(np.array(counted) != np.array(row["areas"]))[0])
        found.append(f"frame {frames[first]}: area {row['areas'][first]}, its run lengths hold {counted[first]}")
    try:
        for rle in row["rles"]:
            decode_masks([rle], row["height"], row["width"])
    except ValueError as error:
        found.append(str(error))
    if row["visible"] != [area > 0 for area in row["areas"]]:
        found.append("visible and areas disagree")
    seen = [frame for frame, visible in zip(frames, row["visible"], strict=True) if visible]
    ends = (seen[0], seen[-1]) if seen else (None, None)
    if (row["first_frame"], row["last_frame"], row["num_visible"]) != (*ends, len(seen)):
        found.append("first_frame, last_frame and num_visible disagree with visible")
    if row["keep"] != (row["drop_reason"] is None):
        found.append(f"keep {row['keep']} and drop_reason {row['drop_reason']!r} disagree")
    return found
