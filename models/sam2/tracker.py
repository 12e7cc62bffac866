"""Tracks objects through a clip: prompt them on any frames, propagate either way, correct, propagate again.

What the published `SAM2VideoPredictor` (of `sam2`) does, with `add_all_frames_to_correct_as_cond` and without filling
holes; objects whose memories have the same structure go through the network as one batch.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.precision import Precision, computing_in
from models.sam.prompts import Prompts
from models.sam2.memory_bank import FrameMemory, MemoryBank
from models.sam2.model import FrameFeatures, Sam2, Segmented

NUM_CACHED_FRAMES = 2  # whose features are kept, for prompts that come one after the other on a frame
MAX_FED_BACK = 32.0  # of the logits of an earlier answer
OBJECTS_PER_BATCH = 16


class Frames(Protocol):
    """A clip: normalised pixels (3, S, S) frame by frame, made when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True)
class FrameMasks:
    """Objects on one frame: logits (O, 4E, 4E), and scores (O,) above 0 for those in sight."""

    frame_index: int
    object_ids: list[int]
    logits: Tensor
    object_scores: Tensor

    def to_masks(self, height: int, width: int) -> Tensor:
        """Bool (O, height, width)."""
        size = (height, width)
        return F.interpolate(self.logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0


@dataclass
class _Track:
    """One object: its memories, and on which frames it was tracked, backwards or not."""

    bank: MemoryBank
    reverse: dict[int, bool] = field(default_factory=dict)


class VideoTracker:
    """`height` and `width` are the clip's, in whose pixels prompts are given; the model's products are in `precision`.
    Holds a few frames' features and each object's bounded memory, never the clip."""

    def __init__(self, model: Sam2, frames: Frames, height: int, width: int, precision: Precision = "fp32") -> None:
        self.model = model
        self.frames = frames
        self.height = height
        self.width = width
        self.precision = precision
        self._tracks: dict[int, _Track] = {}
        self._features: OrderedDict[int, FrameFeatures] = OrderedDict()

    @property
    def object_ids(self) -> list[int]:
        return list(self._tracks)

    @torch.inference_mode()
    def add_points(
        self,
        frame_index: int,
        object_id: int,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        box: Sequence[float] | Tensor | None = None,
        previous: Tensor | None = None,
    ) -> FrameMasks:
        """Prompts an object, new or known, with points (N, 2), their labels (N,; 1 on it, 0 not) and a box (x0, y0,
        x1, y1), in pixels of the clip; its mask on the frame, which is kept as a prompted one.

        They replace what was asked for this object on this frame; its answer there is fed back, as long as it is
        remembered, or `previous`, the logits (4E, 4E) of it that the caller kept. Raises ValueError.
        """
        self._check(frame_index)
        if points is None and box is None:
            raise ValueError("points: neither points nor a box are given; give one of them")
        track = self._tracks.get(object_id) or self._new_track()
        last = track.bank.get(frame_index)
        fed_back = previous if previous is not None else None if last is None else last.logits
        prompts = Prompts(
            points=None if points is None else self._to_input(points.view(1, -1, 2)),
            labels=None if labels is None else labels.to(self.model.device).view(1, -1),
            boxes=None if box is None else self._to_input(torch.as_tensor(box).view(1, 2, 2)).flatten(1),
            masks=None if fed_back is None else fed_back[None, None].clamp(-MAX_FED_BACK, MAX_FED_BACK),
        )
        with self._computing():
            frame = self._frame(frame_index)
            if frame_index in track.reverse:
                recall = track.bank.recall(frame_index, track.reverse[frame_index])
                image = self.model.with_memory(frame, [recall], self._num_pointers)
            else:
                image = self.model.without_memory(frame)
            return self._prompted(frame_index, object_id, track, self.model.segment(image, frame.skips, prompts))

    @torch.inference_mode()
    def add_mask(self, frame_index: int, object_id: int, mask: Tensor) -> FrameMasks:
        """As `add_points`, by a mask, bool (height, width)."""
        self._check(frame_index)
        if mask.shape != (self.height, self.width):
            raise ValueError(f"mask: shape {tuple(mask.shape)} is not the clip's; give ({self.height}, {self.width})")
        size = (self.model.config.image_size,) * 2
        masks = mask[None, None].to(self.model.device, torch.float32)
        if masks.shape[2:] != size:
            masks = F.interpolate(masks, size, mode="bilinear", align_corners=False, antialias=True)
        track = self._tracks.get(object_id) or self._new_track()
        with self._computing():
            segmented = self.model.segment_as(self._frame(frame_index), (masks >= 0.5).float())
            return self._prompted(frame_index, object_id, track, segmented)

    def remove_object(self, object_id: int) -> None:
        """Forgets an object. Raises ValueError if there is none of this id."""
        if self._tracks.pop(object_id, None) is None:
            raise ValueError(f"object_id: there is no object {object_id}; there are {self.object_ids}")

    @torch.inference_mode()
    def propagate(
        self, start: int | None = None, *, reverse: bool = False, max_frames: int | None = None
    ) -> Iterator[FrameMasks]:
        """Tracks all objects from frame `start`, by default the first prompted one, to the end of the clip, or to its
        beginning if `reverse`, over `max_frames` at most; yields every frame as it is done.

        On a frame where it was prompted an object keeps that answer. Objects must not be added or removed meanwhile.
        Raises ValueError.
        """
        if not self._tracks:
            raise ValueError("propagate: nothing to track; add points or a mask first")
        if start is None:
            start = min(index for track in self._tracks.values() for index in track.bank.prompted)
        self._check(start)
        order = range(start, -1, -1) if reverse else range(start, len(self.frames))
        for frame_index in order[:max_frames]:
            with self._computing():
                masks = self._track(frame_index, reverse)
            yield masks

    def _track(self, frame_index: int, reverse: bool) -> FrameMasks:
        groups: dict[object, list[_Track]] = {}
        for track in self._tracks.values():
            track.reverse[frame_index] = reverse
            if frame_index not in track.bank.prompted:
                structure = track.bank.recall(frame_index, reverse).structure
                groups.setdefault(structure, []).append(track)
        frame = self._frame(frame_index)
        for group in groups.values():
            for first in range(0, len(group), OBJECTS_PER_BATCH):
                self._track_together(frame_index, frame, group[first : first + OBJECTS_PER_BATCH], reverse)
        found = [track.bank.get(frame_index) for track in self._tracks.values()]
        memories = [memory for memory in found if memory is not None and memory.logits is not None]
        assert len(memories) == len(self._tracks)
        return _frame_masks(frame_index, self.object_ids, memories)

    def _track_together(self, frame_index: int, frame: FrameFeatures, tracks: list[_Track], reverse: bool) -> None:
        """Objects whose memories have the same structure."""
        recalls = [track.bank.recall(frame_index, reverse) for track in tracks]
        image = self.model.with_memory(frame, recalls, self._num_pointers)
        segmented = self.model.segment(image, frame.skips, None, len(tracks))
        memories = self._memories(frame_index, frame, segmented, prompted=False)
        for track, memory in zip(tracks, memories, strict=True):
            track.bank.add_tracked(memory)

    def _prompted(self, frame_index: int, object_id: int, track: _Track, segmented: Segmented) -> FrameMasks:
        (memory,) = self._memories(frame_index, self._frame(frame_index), segmented, prompted=True)
        track.bank.add_prompted(memory)
        self._tracks[object_id] = track
        return _frame_masks(frame_index, [object_id], [memory])

    def _memories(
        self, frame_index: int, frame: FrameFeatures, segmented: Segmented, prompted: bool
    ) -> list[FrameMemory]:
        features = self.model.remember(frame, segmented, prompted)
        # Clones: a view of one object's would keep the whole batch's.
        columns = (segmented.pointer, segmented.object_score, features, segmented.logits)
        return [FrameMemory(frame_index, *(one.clone() for one in row)) for row in zip(*columns, strict=True)]

    def _frame(self, frame_index: int) -> FrameFeatures:
        if frame_index not in self._features:
            pixels = self.frames[frame_index][None].to(self.model.device, self.model.dtype)
            self._features[frame_index] = self.model.encode_frames(pixels)
            if len(self._features) > NUM_CACHED_FRAMES:
                self._features.popitem(last=False)
        self._features.move_to_end(frame_index)
        return self._features[frame_index]

    def _computing(self) -> AbstractContextManager[None]:
        return computing_in(self.precision, self.model.device)

    @property
    def _num_pointers(self) -> int:
        return min(len(self.frames), self.model.config.max_obj_ptrs_in_encoder)

    def _new_track(self) -> _Track:
        return _Track(MemoryBank(self.model.config.num_maskmem, self._num_pointers))

    def _to_input(self, pixels: Tensor) -> Tensor:
        """(..., 2) pixels of the clip -> of the model's input, to which frames are squeezed."""
        scale = torch.tensor([self.model.config.image_size / side for side in (self.width, self.height)])
        return (pixels.float().cpu() * scale).to(self.model.device)

    def _check(self, frame_index: int) -> None:
        if not 0 <= frame_index < len(self.frames):
            raise ValueError(f"frame_index: {frame_index} is not in the clip; use 0 to {len(self.frames) - 1}")


def _frame_masks(frame_index: int, object_ids: list[int], memories: list[FrameMemory]) -> FrameMasks:
    logits = [memory.logits for memory in memories if memory.logits is not None]
    scores = torch.stack([memory.object_score for memory in memories])
    return FrameMasks(frame_index, object_ids, torch.stack(logits), scores)
