"""Following objects from frame to frame without a memory: a SAM asked on each frame for what stood where it last stood.

What a tracker with a memory is measured against, and how a SAM without one annotates video. The previous mask's box is
the prompt; an object that the model doubts stays where it was last seen, and is looked for there again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.generator.generate import resize
from models.precision import Precision, computing_in
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.sam2.model import Sam2
from models.sam2.segmenter import predict_masks

_DOUBT = 0.5  # of the predicted IoU that the object's own box gave on its first frame, below which it is out of sight
_MIN_SIDE = 2.0  # pixels of the model's input, of a box that is asked for


class Frames(Protocol):
    """A clip's frames, (H, W, 3) uint8 RGB each, got one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FollowedMasks:
    """One frame: `logits` (O, h, w) of its objects, the padding cut off; `object_scores` (O,), above 0 in sight."""

    frame_index: int
    object_ids: tuple[int, ...]
    logits: Tensor
    object_scores: Tensor

    def to_masks(self, height: int, width: int) -> Tensor:
        """(O, height, width) bool; nothing of an object that is out of sight."""
        full = F.interpolate(self.logits[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
        return (full > 0) & (self.object_scores > 0)[:, None, None]


class Follower:
    """Follows masks forward through `frames`, all of one size, by the model's products in `precision`."""

    def __init__(self, sam: Sam | Sam2, frames: Frames, height: int, width: int, precision: Precision = "fp32") -> None:
        self.sam = sam
        self.frames = frames
        self.precision = precision
        self.shape = sam.input_shape(height, width)
        self.scale = torch.tensor([self.shape[1] / width, self.shape[0] / height] * 2)  # of a box
        self._boxes: dict[int, Tensor] = {}
        self._first_iou: dict[int, float] = {}
        self._start = 0

    @torch.inference_mode()
    def add_mask(self, frame_index: int, object_id: int, mask: Tensor) -> None:
        """Follow `mask` (H, W) bool, which must not be empty, from this frame on; all objects start on the same."""
        assert mask.any(), "an empty mask cannot be followed"
        self._boxes[object_id] = _box_of(mask, self.scale).to(self.sam.device)
        self._start = frame_index

    @torch.inference_mode()
    def propagate(self) -> Iterator[FollowedMasks]:
        """Every frame from the first mask's to the last."""
        for index in range(self._start, len(self.frames)):
            yield self._step(index)

    def _step(self, index: int) -> FollowedMasks:
        pixels = torch.from_numpy(resize(self.frames[index], self.shape)).permute(2, 0, 1)
        ids = tuple(self._boxes)
        prompts = Prompts(boxes=torch.stack([self._boxes[one] for one in ids]))
        with computing_in(self.precision, self.sam.device):
            (image,) = self.sam.embed(self.sam.preprocess(pixels[None]))
            logits, predicted = predict_masks(self.sam, image, prompts, multimask_output=False)
        # the padding below and to the right of the frame is no part of it
        size = self.sam.config.image_size
        height, width = (max(1, round(side * logits.shape[-1] / size)) for side in self.shape)
        shown = logits[:, 0, :height, :width].float() - self.sam.config.mask_threshold
        scores = []
        for one, mask, iou in zip(ids, shown > 0, predicted[:, 0].tolist(), strict=True):
            first = self._first_iou.setdefault(one, iou)
            in_sight = bool(mask.any()) and iou >= _DOUBT * first
            scores.append(1.0 if in_sight else -1.0)
            if in_sight:
                self._boxes[one] = _box_of(mask, size / logits.shape[-1])
        return FollowedMasks(index, ids, shown, torch.tensor(scores, device=shown.device))


def _box_of(mask: Tensor, scale: Tensor | float) -> Tensor:
    """x0, y0, x1, y1 of a mask in pixels of the model's input, `scale` of them one of the mask's."""
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float() * scale
    box[2:] = torch.maximum(box[2:], box[:2] + _MIN_SIDE)
    return box
