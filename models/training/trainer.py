"""Training step by step. All that is random is a function of (seed, step), so that a killed run goes on as if unbroken.

The prompts of an image share its encoder pass: the decoder's rounds collect their gradient on the image embedding,
which then goes once through the encoder. Data-parallel workers average their gradients once a step; torch's
DistributedDataParallel would reduce in each of the many backward passes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.precision import computes_in_bf16
from models.sam.mask_decoder import EmbeddedImage
from models.sam.model import Sam
from models.training.augment import Example
from models.training.dense import DenseHead, dense_loss, segment_levels
from models.training.interactive import PromptSettings, PromptTally, train_on_prompts
from models.training.losses import LossWeights
from models.training.optim import (
    NonFiniteLossError,
    OptimSettings,
    learning_rate,
    make_optimizers,
    set_learning_rate,
    update_average,
)
from models.training.text_prompt import TextPrompter, train_on_text_prompts


class DenseSettings(BaseModel):
    """Encoder pre-training: alone for the first `steps` steps, then beside the prompts with `weight`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[int, Field(ge=0)] = 0
    weight: Annotated[float, Field(ge=0)] = 0.0
    num_queries: Annotated[int, Field(ge=1)] = 64


class TrainerSettings(BaseModel):
    """`images_per_pass` images go through the encoder at once; a step's gradients add up over its passes.
    Clicks and refinements are trained in every `clicks_every`-th step, the others end with the first prompt.
    `bf16` is where the device has instructions for it; elsewhere, emulated, it would be ten times slower than fp32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_steps: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    images_per_pass: Annotated[int, Field(ge=1)] = 4
    clicks_every: Annotated[int, Field(ge=1)] = 1
    bf16: bool = False
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    prompts: PromptSettings = PromptSettings()
    loss: LossWeights = LossWeights()
    optim: OptimSettings = OptimSettings()
    dense: DenseSettings = DenseSettings()


@dataclass(frozen=True)
class StepMetrics:
    """Means over a step's prompts on this worker; None for what the step did not train. IoUs are of the first prompt,
    at low resolution, on augmented training images."""

    step: int
    learning_rate: float
    loss: float | None
    dense_loss: float | None
    point_iou_best: float | None
    point_iou_chosen: float | None
    box_iou: float | None
    text_iou: float | None
    gradient_norm: float
    num_masks: int
    seconds: float


class Trainer:
    """A SAM in training; `step` does one, `state_dict` and `load_state_dict` carry everything that a resume needs.

    With `text` it is prompted by CLIP embeddings too, or by nothing else."""

    def __init__(self, sam: Sam, settings: TrainerSettings, text: TextPrompter | None = None) -> None:
        self.text = text
        self.text_alone = text is not None and text.settings.alone
        self.sam = sam.train().requires_grad_(not self.text_alone)
        self.sam.image_encoder.set_drop_path(0.0 if self.text_alone else settings.drop_path)
        self.settings = settings
        self.bf16 = settings.bf16 and computes_in_bf16(sam.device)
        self.num_steps_done = 0
        with torch.random.fork_rng(devices=[]):  # the head is drawn on the CPU
            torch.manual_seed(settings.seed)
            self.head = DenseHead(sam.config.prompt_embed_dim).to(sam.device).requires_grad_(not self.text_alone)
        self.optimizers = make_optimizers(self._named_parameters(), sam.config.encoder_depth, settings.optim)
        self.average = {name: value.detach().clone() for name, value in sam.state_dict().items()}
        projection = {} if text is None else text.projection.state_dict()
        self.text_average = {name: value.detach().clone() for name, value in projection.items()}

    def step(self, examples: Sequence[Example]) -> StepMetrics:
        """One optimiser step on this worker's images. Raises NonFiniteLossError, with the weights as they were."""
        started = time.perf_counter()
        step, settings = self.num_steps_done, self.settings
        rank, num_workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        torch.manual_seed(mix_seeds(settings.seed, step, rank))  # drop path draws from the global generator
        generator = torch.Generator(device=self.sam.device).manual_seed(
            mix_seeds(settings.seed, step, num_workers + rank)
        )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        dense_losses: list[Tensor] = []
        tally: PromptTally | None = None
        for start in range(0, len(examples), settings.images_per_pass):
            part = examples[start : start + settings.images_per_pass]
            dense, prompted = self._train_pass(part, len(examples), generator)
            dense_losses += dense
            if prompted is not None:
                tally = prompted if tally is None else tally + prompted
        loss = None if tally is None else float(tally.loss) / tally.num_masks
        dense_loss = float(torch.stack(dense_losses).sum()) if dense_losses else None
        rate = learning_rate(step, settings.num_steps, settings.optim)
        norm = self._update(rate, step, num_workers, loss, dense_loss, examples)
        self.num_steps_done += 1
        return StepMetrics(
            step=step,
            learning_rate=rate,
            loss=loss,
            dense_loss=dense_loss,
            point_iou_best=_mean(tally, "point_best", "num_points"),
            point_iou_chosen=_mean(tally, "point_chosen", "num_points"),
            box_iou=_mean(tally, "box_single", "num_boxes"),
            text_iou=_mean(tally, "text_chosen", "num_texts"),
            gradient_norm=norm,
            num_masks=0 if tally is None else tally.num_masks,
            seconds=time.perf_counter() - started,
        )

    def _train_pass(
        self, examples: Sequence[Example], num_images: int, generator: torch.Generator
    ) -> tuple[list[Tensor], PromptTally | None]:
        """Gradients of some of a step's images: their dense losses (weighted) and their prompts' tally."""
        sam, settings, step = self.sam, self.settings, self.num_steps_done
        dense_alone = step < settings.dense.steps and not self.text_alone
        dense_weight = 0.0 if self.text_alone else 1.0 if dense_alone else settings.dense.weight
        with self._precision():
            pixels = torch.cat([sam.preprocess(example.image[None]) for example in examples])
            embeddings = sam.encode_images(pixels)  # (B, C, E, E)
        leaf = embeddings.detach().requires_grad_()
        dense_losses = []
        if dense_weight:
            levels = torch.stack([segment_levels(example.masks) for example in examples]).to(sam.device)
            with self._precision():
                dense = dense_loss(self.head, leaf, levels, settings.dense.num_queries, generator)
            dense = dense * (dense_weight * len(examples) / num_images)
            dense.backward()
            dense_losses.append(dense.detach())
        tally: PromptTally | None = None
        clicks = step % settings.clicks_every == 0
        prompts = settings.prompts if clicks else _first_prompt_only(settings.prompts)
        prompt_step, share, images = step - settings.dense.steps, 1 / num_images, EmbeddedImage(leaf)
        if not dense_alone and not self.text_alone:
            labels = [(example.masks.to(sam.device), example.weights.to(sam.device)) for example in examples]
            tally = train_on_prompts(
                sam, images, labels, prompts, settings.loss, prompt_step, generator, share, self.bf16
            )
        if not dense_alone and self.text is not None:
            by_text = train_on_text_prompts(
                sam, self.text, images, examples, prompts, settings.loss, prompt_step, generator, share, self.bf16
            )
            if by_text is not None:
                tally = by_text if tally is None else tally + by_text
        if leaf.grad is not None and embeddings.requires_grad:
            embeddings.backward(leaf.grad)
        return dense_losses, tally

    def _update(
        self,
        rate: float,
        step: int,
        num_workers: int,
        loss: float | None,
        dense_loss: float | None,
        examples: Sequence[Example],
    ) -> float:
        """Averages over the workers, checks, clips and applies the gradients; returns their norm before clipping."""
        if num_workers > 1:
            average_gradients([parameter for _, parameter in self._named_parameters()], num_workers)
        parameters = [parameter for _, parameter in self._named_parameters() if parameter.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.settings.optim.clip_norm)) if parameters else 0.0
        values = {"prompt loss": loss or 0.0, "dense loss": dense_loss or 0.0, "gradient": norm}
        broken = [name for name, value in values.items() if not -float("inf") < value < float("inf")]
        if broken:
            names = ", ".join(example.name for example in examples)
            raise NonFiniteLossError(
                f"step {step}: {broken[0]} is {values[broken[0]]} on images {names}; continue from the last checkpoint "
                "with a lower learning rate"
            )
        set_learning_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.settings.optim.ema_decay:
            update_average(self.average, self.sam, self.settings.optim.ema_decay, step)
            if self.text is not None:
                update_average(self.text_average, self.text.projection, self.settings.optim.ema_decay, step)
        return norm

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and to export: the averaged ones if an average is kept."""
        return dict(self.average) if self.settings.optim.ema_decay else self.sam.state_dict()

    def text_weights(self) -> dict[str, Tensor]:
        """The same of the projection; empty without `text`."""
        if self.text is None or self.settings.optim.ema_decay:
            return dict(self.text_average)
        return self.text.projection.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only, so that `torch.load(weights_only=True)` reads it."""
        return {
            "num_steps_done": self.num_steps_done,
            "sam": self.sam.state_dict(),
            "average": dict(self.average),
            "text": {} if self.text is None else self.text.projection.state_dict(),
            "text_average": dict(self.text_average),
            "head": self.head.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps_done = state["num_steps_done"]
        self.sam.load_state_dict(state["sam"])
        self.head.load_state_dict(state["head"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        if self.text is not None:
            self.text.projection.load_state_dict(state["text"])
        for name, value in state.get("text_average", {}).items():
            self.text_average[name].copy_(value)

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        parts = {"": self.sam, "dense_head.": self.head}
        if self.text is not None:
            parts["clip_prompt."] = self.text.projection
        named = [(f"{part}{name}", value) for part, one in parts.items() for name, value in one.named_parameters()]
        return [(name, value) for name, value in named if value.requires_grad]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.sam.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def average_gradients(parameters: Sequence[nn.Parameter], num_workers: int) -> None:
    """Replaces each gradient by its mean over the workers; a worker without one counts as zero. What no worker has a
    gradient of keeps none, so that the optimisers leave it alone as they do with a single worker."""
    used = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
    dist.all_reduce(used)
    shared = [parameter for parameter, count in zip(parameters, used.tolist(), strict=True) if count]
    if not shared:
        return
    flat = torch.cat([torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in shared])
    dist.all_reduce(flat)
    flat /= num_workers
    sizes = [parameter.numel() for parameter in shared]
    for parameter, mean in zip(shared, flat.split(sizes), strict=True):
        parameter.grad = mean.view_as(parameter)


def _first_prompt_only(settings: PromptSettings) -> PromptSettings:
    return settings.model_copy(update={"num_clicks": 0, "num_refinements": 0})


def _mean(tally: PromptTally | None, total: str, count: str) -> float | None:
    return None if tally is None or not getattr(tally, count) else float(getattr(tally, total)) / getattr(tally, count)


def mix_seeds(seed: int, step: int, stream: int) -> int:
    """One seed of three numbers; far apart for neighbours, as generators want."""
    value = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB
    return (value ^ (value >> 31)) % (1 << 63)
