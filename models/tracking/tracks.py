"""Tracks: one object's masks through a clip, found on key frames, followed, and judged when they are done.

The automatic masklets of SA-V: Ravi et al., «SAM 2: Segment Anything in Images and Videos» (2024), appendix on the
data engine. Masks are kept as run lengths, so that what grows with a clip is a few hundred bytes an object and frame.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from models.masks.regions import clean_rle
from models.masks.rle import areas, decode_masks, encode_masks
from models.tracking.follower import Frames

SHORT = "short"
STABILITY = "stability"
DUPLICATE = "duplicate"


class FrameMasks(Protocol):
    """What a tracker says of one frame: `logits` (O, h, w), `object_scores` (O,), above 0 where one is in sight."""

    @property
    def frame_index(self) -> int: ...
    @property
    def object_ids(self) -> Sequence[int]: ...
    @property
    def logits(self) -> Tensor: ...
    @property
    def object_scores(self) -> Tensor: ...
    def to_masks(self, height: int, width: int) -> Tensor: ...


class Tracker(Protocol):
    """Follows masks through a clip: `models.tracking.follower`, or SAM 2's memory."""

    def add_mask(self, frame_index: int, object_id: int, mask: Tensor, /) -> Any: ...
    def propagate(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class FoundMask:
    """A mask of one key frame."""

    rle: bytes
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]


@dataclass
class Track:
    """One object from its key frame on: lists run in parallel, an entry a frame. An empty mask: out of sight."""

    key_frame: int
    found: FoundMask
    rles: list[bytes] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)
    object_scores: list[float] = field(default_factory=list)
    stability_scores: list[float] = field(default_factory=list)
    drop_reason: str | None = None

    def at(self, frame: int) -> bytes | None:
        """The run lengths on `frame`; None where the track does not reach or nothing is in sight."""
        place = frame - self.key_frame
        return self.rles[place] if 0 <= place < len(self.rles) and self.areas[place] else None

    @property
    def visible(self) -> np.ndarray:
        """(T,) bool, from the key frame on."""
        return np.array(self.areas, np.int64) > 0

    @property
    def stability(self) -> float:
        """The mean over the frames on which it is in sight, 0 if there are none."""
        scores = np.array(self.stability_scores)[self.visible]
        return float(scores.mean()) if len(scores) else 0.0


@dataclass(frozen=True)
class Rules:
    """See `stages.video_settings.TrackSettings`, whose fields these are."""

    key_frame_every: int | None
    merge_iou: float
    min_component_area: int
    max_hole_area: int
    min_frames: int
    min_stability: float
    duplicate_iou: float
    objects_at_once: int
    max_objects: int


def find_tracks(
    frames: Frames,
    height: int,
    width: int,
    find: Callable[[np.ndarray], list[FoundMask]],
    new_tracker: Callable[[], Tracker],
    rules: Rules,
) -> list[Track]:
    """Every object of a clip, in the order in which they are found; rejected ones say why.

    On each key frame `find` gives the masks of the picture; those that overlap no track become tracks from there on.
    `new_tracker` begins anew on the same frames; a tracker follows `objects_at_once` masks at most.
    """
    tracks: list[Track] = []
    for key in range(0, len(frames), rules.key_frame_every or len(frames)):
        here = [rle for track in tracks if (rle := track.at(key)) is not None]
        new = _unlike(find(frames[key]), here, height, width, rules.merge_iou)
        new = new[: rules.max_objects - len(tracks)]
        for start in range(0, len(new), rules.objects_at_once):
            tracks += _follow(key, new[start : start + rules.objects_at_once], height, width, new_tracker(), rules)
    _judge(tracks, len(frames), height, width, rules)
    return tracks


def _unlike(found: list[FoundMask], known: list[bytes], height: int, width: int, threshold: float) -> list[FoundMask]:
    """The masks that overlap none of the known ones by `threshold`."""
    if not found or not known:
        return found
    size = [height, width]
    overlap = coco_mask.iou([{"size": size, "counts": mask.rle} for mask in found],
                            [{"size": size, "counts": rle} for rle in known], [False] * len(known))  # fmt: skip
    return [mask for mask, most in zip(found, overlap.max(axis=1), strict=True) if most < threshold]


def _follow(key: int, found: list[FoundMask], height: int, width: int, tracker: Tracker, rules: Rules) -> list[Track]:
    """The tracks of a key frame's masks, by one pass through the rest of the clip."""
    tracks = [Track(key, mask) for mask in found]
    for number, mask in enumerate(found):
        tracker.add_mask(key, number, torch.from_numpy(decode_masks([mask.rle], height, width)[0].astype(bool)))
    for frame in tracker.propagate():
        masks = frame.to_masks(height, width).cpu().numpy()
        rles = [
            clean_rle(rle, height, width, rules.min_component_area, rules.max_hole_area)[0]
            for rle in encode_masks(masks)
        ]
        inner = (frame.logits > 1.0).sum((1, 2)).double()
        stability = (inner / (frame.logits > -1.0).sum((1, 2)).clamp(min=1)).tolist()
        pixels, scores = areas(rles).tolist(), frame.object_scores.flatten().tolist()
        for place, number in enumerate(frame.object_ids):
            track = tracks[number]
            assert len(track.rles) == frame.frame_index - key, "a tracker gives every frame, in order"
            track.rles.append(rles[place])
            track.areas.append(pixels[place])
            track.object_scores.append(scores[place])
            track.stability_scores.append(stability[place])
    return tracks


def _judge(tracks: list[Track], num_frames: int, height: int, width: int, rules: Rules) -> None:
    """Give those that are not kept their `drop_reason`."""
    for track in tracks:
        if track.visible.sum() < min(rules.min_frames, num_frames - track.key_frame):
            track.drop_reason = SHORT
        elif track.stability < rules.min_stability:
            track.drop_reason = STABILITY
    alive = [track for track in tracks if track.drop_reason is None]
    overlap = track_iou(alive, num_frames, height, width)
    best_first = np.argsort([-track.found.predicted_iou for track in alive], kind="stable")
    kept: list[int] = []
    for one in best_first.tolist():
        if any(overlap[one, other] >= rules.duplicate_iou for other in kept):
            alive[one].drop_reason = DUPLICATE
        else:
            kept.append(one)


def track_iou(tracks: list[Track], num_frames: int, height: int, width: int) -> np.ndarray:
    """Shared pixels over all frames / pixels of either over all frames, float64 (N, N).

    Yang et al., «Video Instance Segmentation» (2019), section 3.
    """
    shared = np.zeros((len(tracks), len(tracks)))
    either = np.zeros_like(shared)
    for frame in range(num_frames):
        seen = [(index, rle) for index, track in enumerate(tracks) if (rle := track.at(frame)) is not None]
        size = np.zeros(len(tracks))
        both = np.zeros_like(shared)
        if seen:
            masks = [{"size": [height, width], "counts": rle} for _, rle in seen]
            chosen = [index for index, _ in seen]
            size[chosen] = coco_mask.area(masks)
            iou = coco_mask.iou(masks, masks, [False] * len(masks))
            total = size[chosen][:, None] + size[chosen][None, :]
            both[np.ix_(chosen, chosen)] = iou * total / (1.0 + iou)
        shared += both
        either += size[:, None] + size[None, :] - both
    return np.asarray(shared / np.maximum(either, 1.0))
