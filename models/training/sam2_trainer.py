"""Training a SAM 2: its image encoder after a SAM's, then on pictures, then on clips. Pure torch; knows no files.

The first `imitate_steps` steps the encoder learns the embedding that a trained SAM has of the same pictures, which says
far more than a mask does (distillation: Hinton et al. 2015, arXiv:1503.02531; of SAM's embedding: Zhang et al. 2023,
arXiv:2306.14289); `models.training.start.take_over` gives it that SAM's decoder. A step's pictures are prompted as a
SAM's are, all in one pass; its clips go backward one by one. All that is random is a function of (seed, step).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.precision import products_in_tf32
from models.sam.mask_decoder import EmbeddedImage
from models.sam.model import Sam
from models.sam.skips import Skips
from models.sam2.model import Sam2
from models.training.augment import Example
from models.training.clip_pass import ClipExample, ClipLossWeights, ClipPass, ClipPromptSettings, ClipTally
from models.training.interactive import PromptSettings, PromptTally, train_on_prompts
from models.training.optim import (
    NonFiniteLossError,
    OptimSettings,
    learning_rate,
    make_optimizers,
    set_learning_rate,
    update_average,
)
from models.training.trainer import mix_seeds


class Sam2TrainerSettings(BaseModel):
    """`prompts` are a picture's, `clips` a clip's. Clicks on pictures are trained in every `clicks_every`-th step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_steps: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    imitate_steps: Annotated[int, Field(ge=0)] = 0
    clicks_every: Annotated[int, Field(ge=1)] = 1
    prompts: PromptSettings = PromptSettings()
    clips: ClipPromptSettings = ClipPromptSettings()
    loss: ClipLossWeights = ClipLossWeights()
    optim: OptimSettings = OptimSettings()


@dataclass(frozen=True)
class Sam2StepMetrics:
    """Means over what a step showed; None for what it did not. IoUs at low resolution: `first_iou` of
    frames that were prompted by a click or a box, `tracked_iou` of the others; `right_scores`: how often the occlusion
    score was right."""

    step: int
    learning_rate: float
    loss: float
    imitation_loss: float | None
    picture_loss: float | None
    point_iou_best: float | None
    box_iou: float | None
    clip_loss: float | None
    first_iou: float | None
    tracked_iou: float | None
    right_scores: float | None
    gradient_norm: float
    num_masks: int
    seconds: float


class Sam2Trainer:
    """`step` does one; `state_dict` and `load_state_dict` carry everything that a resume needs. `teacher`: a SAM of the
    same input and embedding, for the first steps."""

    def __init__(self, model: Sam2, settings: Sam2TrainerSettings, teacher: Sam | None = None) -> None:
        assert teacher is not None or not settings.imitate_steps, "somebody must be imitated"
        self.model = model.train().requires_grad_()
        self.settings = settings
        self.teacher = teacher
        self.num_steps_done = 0
        self.optimizers = make_optimizers(model.named_parameters(), model.config.encoder_depth, settings.optim)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @products_in_tf32()
    def step(self, pictures: Sequence[Example], clips: Sequence[ClipExample] = ()) -> Sam2StepMetrics:
        """One optimiser step on pictures (of the model's square input) and clips.

        Raises NonFiniteLossError, with the weights as they were.
        """
        started = time.perf_counter()
        step, settings = self.num_steps_done, self.settings
        generator = torch.Generator(device=self.model.device).manual_seed(mix_seeds(settings.seed, step, 0))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        imitation: float | None = None
        prompted: PromptTally | None = None
        if pictures and step < settings.imitate_steps:
            imitation = self._imitate(pictures)
        elif pictures:
            prompted = self._prompt(pictures, generator)
        tally = ClipTally()
        for clip in clips:
            one = ClipPass(self.model, clip, settings.clips, settings.loss, step, generator)
            loss, seen = one.run()
            (loss / len(clips)).backward()
            tally.add(seen)
        picture_loss = None if prompted is None else float(prompted.loss) / prompted.num_masks
        clip_loss = _share(tally.loss, tally.num_scores)
        total = sum(one for one in (imitation, picture_loss, clip_loss) if one is not None)
        rate = learning_rate(step, settings.num_steps, settings.optim)
        norm = self._update(rate, total, [*(one.name for one in pictures), *(one.name for one in clips)])
        return Sam2StepMetrics(
            step=step,
            learning_rate=rate,
            loss=total,
            imitation_loss=imitation,
            picture_loss=picture_loss,
            point_iou_best=None if prompted is None else _share(float(prompted.point_best), prompted.num_points),
            box_iou=None if prompted is None else _share(float(prompted.box_single), prompted.num_boxes),
            clip_loss=clip_loss,
            first_iou=_share(tally.first_iou, tally.num_first),
            tracked_iou=_share(tally.tracked_iou, tally.num_tracked),
            right_scores=_share(tally.right_scores, tally.num_scores),
            gradient_norm=norm,
            num_masks=tally.num_scores + (0 if prompted is None else prompted.num_masks),
            seconds=time.perf_counter() - started,
        )

    def _imitate(self, pictures: Sequence[Example]) -> float:
        """Mean squared difference of the coarsest features to the teacher's embedding."""
        assert self.teacher is not None
        images = torch.stack([picture.image for picture in pictures])
        with torch.no_grad():
            target = self.teacher.encode_images(self.teacher.preprocess(images))
        loss = F.mse_loss(self.model.image_encoder(self.model.preprocess(images)).features[-1], target)
        loss.backward()
        return float(loss.detach())

    def _prompt(self, pictures: Sequence[Example], generator: torch.Generator) -> PromptTally | None:
        """The rounds of prompts collect their gradients on leaves, which then go once through the encoder."""
        model, settings, step = self.model, self.settings, self.num_steps_done
        frames = model.encode_frames(model.preprocess(torch.stack([picture.image for picture in pictures])))
        encoded = (model.without_memory(frames), frames.skips.fine, frames.skips.middle)
        leaves = [one.detach().requires_grad_() for one in encoded]
        prompts = settings.prompts
        if step % settings.clicks_every:
            prompts = prompts.model_copy(update={"num_clicks": 0, "num_refinements": 0})
        tally = train_on_prompts(
            model,
            EmbeddedImage(leaves[0], Skips(leaves[1], leaves[2])),
            [(picture.masks.to(model.device), picture.weights.to(model.device)) for picture in pictures],
            prompts,
            settings.loss,
            step - settings.imitate_steps,
            generator,
            1 / len(pictures),
            bf16=False,
        )
        if tally is not None:
            torch.autograd.backward(encoded, [leaf.grad for leaf in leaves])
        return tally

    def _update(self, rate: float, loss: float, names: list[str]) -> float:
        """Checks, clips and applies the gradients; returns their norm before clipping."""
        settings = self.settings.optim
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(parameters, settings.clip_norm)) if parameters else 0.0
        for name, value in (("loss", loss), ("gradient", norm)):
            if not -float("inf") < value < float("inf"):
                raise NonFiniteLossError(
                    f"step {self.num_steps_done}: {name} is {value} on {', '.join(names)}; continue from the last "
                    "checkpoint with a lower learning rate"
                )
        set_learning_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
        if settings.ema_decay:
            update_average(self.average, self.model, settings.ema_decay, self.num_steps_done)
        self.num_steps_done += 1
        return norm

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and to export: the averaged ones if an average is kept."""
        return dict(self.average) if self.settings.optim.ema_decay else self.model.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only, so that `torch.load(weights_only=True)` reads it."""
        return {
            "num_steps_done": self.num_steps_done,
            "model": self.model.state_dict(),
            "average": dict(self.average),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps_done = state["num_steps_done"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, value in state["average"].items():
            self.average[name].copy_(value)


def _share(total: float, count: int) -> float | None:
    return total / count if count else None
