"""What scenes teach a CLIP whose trunk comes from a classifier: how things look, and a place for each of their words.

The words have no texts here but free places in the space of features, which costs a hundredth of a text tower's steps;
the text tower is then brought to these places (`models.clip.place_words`). The loss is CLIP's, of images among words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.clip.efficientnet_tower import EfficientNetTower
from models.clip.model import Clip
from models.training.optim import NonFiniteLossError


class LooksSettings(BaseModel):
    """`masks_per_step`, `blanks_per_step` and `rows_per_step` are drawn at random. `noise`: deviation of what is added
    to pooled features, whose own is 1. `row_noise`: deviation of a picture from its class's place, relative to its
    length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_steps: Annotated[int, Field(ge=1)] = 1000
    masks_per_step: Annotated[int, Field(ge=1)] = 256
    blanks_per_step: Annotated[int, Field(ge=0)] = 8
    rows_per_step: Annotated[int, Field(ge=0)] = 96
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    noise: Annotated[float, Field(ge=0)] = 0.1
    row_noise: Annotated[float, Field(ge=0)] = 1.7
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


@dataclass(frozen=True)
class LabelledPools:
    """Pooled views of masks (N, K, F) and of nothing (B, F); of each group the word of each mask, an index into `words`
    or -1, (N,), and which words it has. `nothing` is the word of what shows nothing. `rows` (C, kinds_dim) are classes
    of the group `row_group` beside its words."""

    pooled: Tensor
    blanks: Tensor
    words: Sequence[str]
    labels: Mapping[str, Tensor]
    members: Mapping[str, Tensor]
    nothing: int
    rows: Tensor
    row_group: str


def fit_looks(clip: Clip, data: LabelledPools, settings: LooksSettings, seed: int) -> tuple[Tensor, dict[str, float]]:
    """Trains the tower's `looks` and CLIP's temperature, and returns the words' places (W, embed_dim), of unit length,
    with each group's accuracy over the last steps. Raises NonFiniteLossError."""
    assert isinstance(clip.visual, EfficientNetTower)
    generator = torch.Generator().manual_seed(seed)
    width, kinds_dim = clip.config.embed_dim, clip.config.kinds_dim
    places = nn.Parameter(torch.randn(len(data.words), width, generator=generator) * width**-0.5)
    of_rows = F.pad(data.rows, (0, width - kinds_dim))
    optimizer = torch.optim.AdamW(
        [
            {"params": list(clip.visual.looks.parameters()), "weight_decay": settings.weight_decay},
            {"params": [places, clip.logit_scale], "weight_decay": 0.0},
        ],
        settings.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.num_steps, pct_start=0.1)
    accuracy: dict[str, float] = {}
    for step in range(settings.num_steps):
        masks = torch.randint(len(data.pooled), (settings.masks_per_step,), generator=generator)
        blanks = torch.randint(len(data.blanks), (settings.blanks_per_step,), generator=generator)
        classes = torch.randint(len(data.rows), (settings.rows_per_step,), generator=generator)
        images = _images(clip.visual, data.pooled[masks], data.blanks[blanks], settings.noise, generator)
        directions, loss = F.normalize(places, dim=-1), images.new_zeros(())
        for name, labels in data.labels.items():
            targets = torch.cat([labels[masks], torch.full((len(blanks),), data.nothing)])
            members, shown = data.members[name], images
            if name == data.row_group:
                shown = torch.cat([images, _of_rows(data.rows[classes], images, settings.row_noise, generator)])
                targets = torch.cat([targets, len(data.words) + classes])
                texts = torch.cat([directions[members], of_rows])
                members = torch.cat([members, len(data.words) + torch.arange(len(data.rows))])
            else:
                texts = directions[members]
            column = torch.full((len(data.words) + len(data.rows),), -1)
            column[members] = torch.arange(len(members))
            columns = torch.where(targets < 0, -1, column[targets])
            logits = clip.logit_scale.exp() * shown @ texts.T
            loss = loss + settings.weights.get(name, 1.0) * F.cross_entropy(logits, columns, ignore_index=-1)
            hits = (
                (logits[: len(masks)].argmax(dim=1) == columns[: len(masks)])[labels[masks] >= 0].float().mean().item()
            )
            accuracy[name] = 0.95 * accuracy.get(name, hits) + 0.05 * hits
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the loss of step {step} of the looks is {loss.item()}; lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        clip.cap_logit_scale()
    return F.normalize(places.detach(), dim=-1), accuracy


def _images(
    tower: EfficientNetTower, masks: Tensor, blanks: Tensor, noise: float, generator: torch.Generator
) -> Tensor:
    """Features of unit length (N + B, D) of masks (N, K, F), the mean over their views, and of blanks (B, F)."""
    views = torch.cat([masks.flatten(0, 1), blanks])
    jitter = noise * tower.pooled_norm.deviation * torch.randn(views.shape, generator=generator)
    features = tower.project(views + jitter)
    of_masks = features[: masks.shape[0] * masks.shape[1]].unflatten(0, masks.shape[:2]).mean(dim=1)
    return F.normalize(torch.cat([of_masks, features[masks.shape[0] * masks.shape[1] :]]), dim=-1)


def _of_rows(rows: Tensor, images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Features (M, D) of pictures of classes (M, kinds_dim), imagined about their rows, that look as images do."""
    kinds = rows + noise * torch.randn(rows.shape, generator=generator) / rows.shape[1] ** 0.5
    looks = F.normalize(images.detach()[torch.arange(len(rows)) % len(images), rows.shape[1] :], dim=-1)
    return torch.cat([F.normalize(kinds, dim=-1), looks], dim=-1) * 0.5**0.5
