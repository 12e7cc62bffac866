"""One clip of a SAM 2's training: prompted on the first frame, now and then corrected on a later one, else tracked.

Ravi et al. 2024, arXiv:2408.00714, section 4 and appendix D: the first prompt is the true mask for half of the clips,
a click or a box for a quarter each; the best of three masks learns, focal:dice:IoU:occlusion 20:1:1:1, the error of the
predicted IoU is absolute, and where an object is out of sight only the occlusion score learns. Gradients go through the
memory.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.sam.prompts import Prompts
from models.sam2.memory_bank import FrameMemory, MemoryBank
from models.sam2.model import NO_OBJECT_LOGIT, FrameFeatures, Sam2, Segmented
from models.sam2.tracker import MAX_FED_BACK
from models.training.clicks import error_points, noisy_boxes, random_points
from models.training.interactive import attention_of_few, every_mask
from models.training.losses import LossWeights, Weight, best_of, mask_iou, mask_losses


@dataclass(frozen=True)
class ClipExample:
    """`frames` (T, 3, S, S) uint8; `masks` (T, O, S, S) bool of O objects that the first frame shows, at the frames'
    resolution, empty where an object is out of sight; `name` says where it came from."""

    frames: Tensor
    masks: Tensor
    name: str


class ClipPromptSettings(BaseModel):
    """What a clip's objects are first prompted with, one kind a clip: masks, boxes (`box_noise` of the side off) or,
    for the rest, a click. On a later frame `corrected_share` of the clips bring a click where the mask is wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mask_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    box_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    box_noise: Annotated[float, Field(ge=0)] = 0.1
    corrected_share: Annotated[float, Field(ge=0, le=1)] = 0.2


class ClipLossWeights(LossWeights):
    """`occlusion` is the weight of the loss of whether the object is in sight."""

    occlusion: Weight = 1.0


@dataclass
class ClipTally:
    """Sums over objects and frames, prompted masks left out: losses, IoUs where the object is in sight, and how often
    the occlusion score is right. `first` counts frames that were prompted by a click or a box, `tracked` the others."""

    loss: float = 0.0
    first_iou: float = 0.0
    tracked_iou: float = 0.0
    right_scores: float = 0.0
    num_first: int = 0
    num_tracked: int = 0
    num_scores: int = 0

    def add(self, other: "ClipTally") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class ClipPass:
    """One clip on its way through the frames, its objects side by side."""

    def __init__(
        self,
        model: Sam2,
        example: ClipExample,
        settings: ClipPromptSettings,
        weights: ClipLossWeights,
        step: int,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.settings = settings
        self.weights = weights
        self.step = step
        self.generator = generator
        self.masks = example.masks.to(model.device)
        self.num_frames, num_objects = self.masks.shape[:2]
        cells = F.avg_pool2d(self.masks.float(), model.config.image_size // (4 * model.config.embedding_size))
        self.truth = cells >= 0.5  # (T, O, 4E, 4E)
        frames = model.encode_frames(model.preprocess(example.frames))
        self.frames = [
            FrameFeatures(features, frames.positions, skips)
            for features, skips in zip(frames.features.split(1), frames.skips.split(), strict=True)
        ]
        self.num_pointers = min(self.num_frames, model.config.max_obj_ptrs_in_encoder)
        self.banks = [MemoryBank(model.config.num_maskmem, self.num_pointers) for _ in range(num_objects)]
        self.losses: list[Tensor] = []
        self.tally = ClipTally()

    def run(self) -> tuple[Tensor, ClipTally]:
        """The mean loss over objects and frames, zero where there is no object, and what to report."""
        if not self.banks:
            return self.frames[0].features.sum() * 0.0, self.tally
        how = self.settings
        drawn = torch.rand(3, generator=self.generator, device=self.generator.device).tolist()
        corrected = None
        if self.num_frames > 1 and drawn[1] < how.corrected_share:
            corrected = 1 + int(drawn[2] * (self.num_frames - 1))
        with attention_of_few(self.model.device):
            self._begin(drawn[0])
            for index in range(1, self.num_frames):
                self._track(index, index == corrected)
        total = torch.stack(self.losses).sum()
        self.tally.loss = float(total.detach())
        return total / self.tally.num_scores, self.tally

    def _begin(self, drawn: float) -> None:
        how, frame, size = self.settings, self.frames[0], self.model.config.image_size
        if drawn < how.mask_share and self.num_frames > 1:
            self._remember(0, self.model.segment_as(frame, self.masks[0][:, None].float()), prompted=True)
            return
        if drawn < how.mask_share + how.box_share:
            prompts = Prompts(boxes=noisy_boxes(self.truth[0], size, how.box_noise, self.generator))
        else:
            points = random_points(self.truth[0], size, self.generator)[0][:, None]
            prompts = Prompts(points=points, labels=points.new_ones(points.shape[:2], dtype=torch.int64))
        segmented = self._segment(0, self.model.without_memory(frame), prompts, prompts.boxes is None, "first")
        self._remember(0, segmented, prompted=True)

    def _track(self, index: int, corrected: bool) -> None:
        frame, nothing = self.frames[index], self.masks.new_zeros(len(self.banks), 1, dtype=torch.int64) - 1
        recalls = [bank.recall(index, False) for bank in self.banks]
        image = self.model.with_memory(frame, recalls, self.num_pointers)
        prompts = Prompts(points=torch.zeros(len(nothing), 1, 2, device=nothing.device), labels=nothing)
        segmented = self._segment(index, image, prompts, True, "tracked")
        if corrected:
            previous = segmented.logits.detach()
            points, labels = error_points(previous, self.truth[index], self.model.config.image_size, self.generator)
            fed_back = previous[:, None].clamp(-MAX_FED_BACK, MAX_FED_BACK)
            prompts = Prompts(points=points[:, None], labels=labels[:, None], masks=fed_back)
            segmented = self._segment(index, image, prompts, True, "first")
        self._remember(index, segmented, prompted=corrected)

    def _segment(self, index: int, image: Tensor, prompts: Prompts, several: bool, kind: str) -> Segmented:
        """What `Sam2.segment` answers; the loss of all its masks (three if `several`, or the single one) is noted."""
        model = self.model
        sparse, dense = model.prompt_encoder(prompts)
        decoder = model.mask_decoder
        decoded = decoder.attend(image, model.prompt_encoder.dense_pe(), sparse, dense, self.frames[index].skips)
        slots = slice(1, None) if several else slice(0, 1)
        logits, predicted_iou = every_mask(decoder, decoded, slots), decoded.predicted_iou[:, slots]
        assert decoded.object_score is not None
        self._note(logits, predicted_iou, decoded.object_score, self.truth[index], kind)
        everyone, best = torch.arange(len(logits), device=logits.device), predicted_iou.argmax(1)
        appears = decoded.object_score > 0
        return Segmented(
            torch.where(appears[:, None, None], logits[everyone, best], NO_OBJECT_LOGIT),
            decoded.object_score,
            predicted_iou[everyone, best],
            model.pointer(decoded.mask_tokens[:, slots][everyone, best], appears),
        )

    def _note(self, logits: Tensor, predicted_iou: Tensor, score: Tensor, truth: Tensor, kind: str) -> None:
        weights = self.weights
        in_sight = truth.flatten(1).any(1)
        targets = truth[:, None].float().expand_as(logits)
        actual = mask_iou(logits, targets)
        best, _ = best_of(mask_losses(logits, targets, weights, self.step))
        loss = best + weights.iou * (predicted_iou - actual).abs().mean(1)
        hidden = F.binary_cross_entropy_with_logits(score, in_sight.float(), reduction="none")
        self.losses.append((torch.where(in_sight, loss, 0.0) + weights.occlusion * hidden).sum())
        chosen = actual.gather(1, predicted_iou.argmax(1)[:, None])[:, 0]
        shown, total = int(in_sight.sum()), float(chosen[in_sight].sum())
        seen = ClipTally(right_scores=float(((score > 0) == in_sight).sum()), num_scores=len(score))
        setattr(seen, f"{kind}_iou", total)
        setattr(seen, f"num_{kind}", shown)
        self.tally.add(seen)

    def _remember(self, index: int, segmented: Segmented, prompted: bool) -> None:
        if index == self.num_frames - 1:
            return
        features = self.model.remember(self.frames[index], segmented, prompted)
        columns = (segmented.pointer, segmented.object_score, features, segmented.logits)
        for bank, row in zip(self.banks, zip(*columns, strict=True), strict=True):
            memory = FrameMemory(index, *row)
            if prompted:
                bank.add_prompted(memory)
            else:
                bank.add_tracked(memory)
