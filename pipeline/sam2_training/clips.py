"""Labelled clips as `maskfoundry scenes --video` writes them: a JSON each, and beside it frames or an mp4."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.masks.rle import decode_masks
from stages.decode_image import describe
from stages.read_video import VideoFrames
from stages.video_settings import VideoSettings


class LabelledClips:
    """Clips by number; their annotations are read when they are due. `fingerprint` is a hash over names and masks.

    Raises ValueError for a folder without clips, and for a clip whose frames are missing.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self.records: list[Path] = []
        for folder in folders:
            found = sorted(Path(folder).expanduser().glob("clip_*.json"))
            if not found:
                raise ValueError(f"clips: {folder} holds no clip_*.json; make some with `maskfoundry scenes --video`")
            self.records += found
        total = hashlib.sha256()
        for record in self.records:
            if not any(path.exists() for path in _videos(record)):
                raise ValueError(f"clips: {record} has neither a folder of frames nor an mp4 beside it; make it again")
            total.update(record.name.encode() + hashlib.sha256(record.read_bytes()).digest())
        self.fingerprint = total.hexdigest()

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> "LabelledClip":
        return LabelledClip(self.records[index])


class LabelledClip:
    """One clip, `len` frames long. Raises ValueError, naming the file, for what is not as `scenes` writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.record = json.loads(path.read_text(encoding="utf-8"))
            self.height, self.width = int(self.record["video_height"]), int(self.record["video_width"])
            self.masklet = self.record["masklet"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a clip's annotation ({describe(error)}); make it again") from error

    def __len__(self) -> int:
        return len(self.masklet)

    def frames(self, indexes: Sequence[int]) -> list[np.ndarray]:
        """(H, W, 3) uint8 each."""
        video = next(path for path in _videos(self.path) if path.exists())
        try:
            with VideoFrames(str(video), VideoSettings()) as frames:
                read = {index: frames[index] for index in sorted(set(indexes))}
        except Exception as error:  # a video may be broken in any way: the line says which one and how
            raise ValueError(f"{video}: cannot be read ({describe(error)}); make it again") from error
        return [read[index] for index in indexes]

    def masks(self, indexes: Sequence[int]) -> np.ndarray:
        """(T, O, H, W) bool."""
        some = [[one["counts"].encode("ascii") for one in self.masklet[index]] for index in indexes]
        return np.stack([decode_masks(rles, self.height, self.width).astype(np.bool_) for rles in some])


def _videos(record: Path) -> tuple[Path, Path]:
    return record.with_suffix(""), record.with_suffix(".mp4")
