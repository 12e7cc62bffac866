"""Trains a CLIP: batches of views with their texts in, one optimiser step out. Knows neither files nor Ray."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.clip.contrastive import shared_text_loss
from models.clip.model import Clip
from models.clip.regions import normalise_pixels
from models.precision import computes_in_bf16
from models.training.muon import Muon
from models.training.optim import NonFiniteLossError, OptimSettings, learning_rate, set_learning_rate, update_average

_BLOCK_MATRIX = re.compile(r"\.resblocks\.\d+\.(attn|mlp)\..*weight$")
_TABLE = ("positional_embedding", "class_embedding", "token_embedding")


class ClipTrainerSettings(BaseModel):
    """`weights`: how much the loss of each group of texts counts, 1 where it is not named. `bf16` is where the device
    has instructions for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_steps: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    bf16: bool = False
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    optim: OptimSettings = OptimSettings(learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.98), layer_decay=1.0)


@dataclass(frozen=True)
class TextGroup:
    """Texts that compete with each other: `tokens` (M, L) of different texts; thing `rows[i]` of the batch is named by
    text `targets[i]`. Of `classes`, few texts for many things, only the loss of the images counts (CLIP's zero-shot
    classifier as it is used): that of the texts would weigh every class alike, however rare."""

    name: str
    tokens: Tensor
    rows: Tensor
    targets: Tensor
    classes: bool = False


@dataclass(frozen=True)
class ClipBatch:
    """Views (N, S, S, 3), RGB uint8, and the groups of texts that they are compared with. View i is one of thing
    `shows[i]`, whose feature is the mean over its views, as in use; the groups' rows are the things."""

    images: Tensor
    shows: Tensor
    groups: Sequence[TextGroup]


class ClipTrainer:
    """The state of a training. One call of `step` a batch; `state_dict` is all that is needed to go on elsewhere."""

    def __init__(self, clip: Clip, settings: ClipTrainerSettings) -> None:
        self.clip = clip.train()
        self.settings = settings
        self.bf16 = settings.bf16 and computes_in_bf16(clip.device)
        self.num_steps_done = 0
        optim = settings.optim
        self.optimizers = _make_optimizers(clip, optim)
        self.average = {name: value.detach().clone() for name, value in clip.state_dict().items()}

    def step(self, batch: ClipBatch) -> dict[str, float]:
        """One optimiser step; the loss, each group's loss and accuracy, and the temperature's inverse.

        Raises NonFiniteLossError, with the weights as they were before the step.
        """
        optim = self.settings.optim
        rate = learning_rate(self.num_steps_done, self.settings.num_steps, optim)
        set_learning_rate(self.optimizers, rate)
        loss, metrics = self._loss(batch)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the loss of step {self.num_steps_done} is {loss.item()}; lower learning_rate")
        self.clip.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.clip.parameters(), optim.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.clip.cap_logit_scale()
        update_average(self.average, self.clip, optim.ema_decay, self.num_steps_done)
        self.num_steps_done += 1
        return {"loss": loss.item(), **metrics, "logit_scale": self.clip.logit_scale.exp().item()}

    def _loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        device = self.clip.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            pixels = batch.images.to(device).permute(0, 3, 1, 2).float()  # (N, 3, S, S), still channels last
            images = normalise_pixels(pixels, self.clip.config)
            views = F.normalize(self.clip.encode_image(images).float(), dim=-1)
            text_features = [self.clip.encode_text(group.tokens.to(device)).float() for group in batch.groups]
        shows = batch.shows.to(device)
        image_features = views.new_zeros(int(shows.max()) + 1, views.shape[1]).index_add(0, shows, views)
        total, metrics = views.new_zeros(()), {}
        for group, texts in zip(batch.groups, text_features, strict=True):
            rows, targets = group.rows.to(device), group.targets.to(device)
            if group.classes:
                loss = F.cross_entropy(self.clip.logits(image_features[rows], texts), targets)
            else:
                loss = shared_text_loss(image_features[rows], texts, targets, self.clip.logit_scale)
            total = total + self.settings.weights.get(group.name, 1.0) * loss
            found = self.clip.logits(image_features[rows].detach(), texts.detach()).argmax(dim=-1)
            metrics[f"{group.name}_loss"] = loss.item()
            metrics[f"{group.name}_accuracy"] = (found == targets).float().mean().item()
        return total, metrics

    def weights(self) -> dict[str, Tensor]:
        """What to use and export: the averaged weights, or the last ones without an average."""
        return self.average if self.settings.optim.ema_decay else self.clip.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {
            "clip": self.clip.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "num_steps_done": self.num_steps_done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clip.load_state_dict(state["clip"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        for optimizer, of_optimizer in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(of_optimizer)
        self.num_steps_done = state["num_steps_done"]


def _make_optimizers(clip: Clip, optim: OptimSettings) -> list[torch.optim.Optimizer]:
    """One AdamW and, with `muon`, one Muon for the kernels of a ModifiedResNet and the matrices of transformers'
    blocks; each parameter is in one of them."""
    named = dict(clip.named_parameters())
    inside = {
        name: parameter
        for name, parameter in named.items()
        if optim.muon and (_BLOCK_MATRIX.search(name) or (clip.config.is_resnet and parameter.ndim == 4))
    }
    rest = [(name, parameter) for name, parameter in named.items() if name not in inside]
    groups: Any = _parameter_groups(rest, optim.weight_decay)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, optim.learning_rate, optim.betas)]
    if inside:
        group = {"params": list(inside.values()), "lr_scale": 1.0}
        optimizers.append(Muon([group], optim.learning_rate, optim.weight_decay))
    return optimizers


def clip_parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices and kernels decay; gains, biases, tables and the temperature do not (arXiv:2103.00020, section 2.5)."""
    return _parameter_groups(module.named_parameters(), weight_decay)


def _parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, object]]:
    decays: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named:
        is_table = name.split(".")[-1] in _TABLE or name.startswith("token_embedding")
        (others if parameter.ndim < 2 or is_table else decays).append(parameter)
    return [
        {"params": decays, "lr_scale": 1.0, "weight_decay": weight_decay},
        {"params": others, "lr_scale": 1.0, "weight_decay": 0.0},
    ]
