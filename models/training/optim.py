"""The optimisers of either SAM, and settings that a CLIP's share: AdamW with layer-wise decay, warm-up and cosine,
clipped gradients, averaged weights.

Layer-wise decay as in BEiT (Bao et al. 2021, arXiv:2106.08254) and ViTDet: the deeper into the encoder, the smaller
the learning rate. Warm-up 250 steps, decay .8, betas (.9, .999), weight decay .1: Kirillov et al. 2023, appendix A.
Muon, for matrices inside the network, is scaled to AdamW's size, so that one learning rate serves both.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.training.muon import Muon

_BLOCK = re.compile(r"image_encoder\.(?:trunk\.)?_?blocks\.(\d+)\.")
_PIXELS = re.compile(r"image_encoder\.(?:trunk\.)?(?:patch_embed\.|pos_embed|_conv_stem\.|_bn0\.)")
_MATRIX = re.compile(r"\.blocks\.\d+\.(attn|mlp)\.|mask_decoder\.transformer\.")
_TABLE = re.compile(
    r"pos_embed|rel_pos|point_embeddings|not_a_point_embed|no_mask_embed|iou_token|mask_tokens|obj_score_token"
    r"|maskmem_tpos_enc|no_mem_|no_obj_"
)


class NonFiniteLossError(RuntimeError):
    """A step's loss is no number any more; the message says which step's and what is to be done."""


class OptimSettings(BaseModel):
    """`final_share` is the learning rate at the last step, relative to the peak. `ema_decay` 0 keeps no average.
    With `muon` the matrices of transformers' blocks, and a CLIP's kernels, learn by Muon, not AdamW."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: Annotated[float, Field(gt=0)] = 8e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    warmup_steps: Annotated[int, Field(ge=0)] = 250
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    muon: bool = False


def layer_of(name: str, encoder_depth: int) -> int:
    """How far from the pixels a parameter stands: 0 patches and positions, i + 1 block i, depth + 1 all the rest."""
    block = _BLOCK.match(name)
    if block:
        return int(block.group(1)) + 1
    return 0 if _PIXELS.match(name) else encoder_depth + 1


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], encoder_depth: int, settings: OptimSettings
) -> list[dict[str, object]]:
    """Groups with `lr_scale` = layer_decay ** (depth + 1 - layer); no weight decay for biases, norms, tables."""
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not _TABLE.search(name)
            groups.setdefault((layer_of(name, encoder_depth), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_scale": settings.layer_decay ** (encoder_depth + 1 - layer),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def make_optimizers(
    named: Iterable[tuple[str, nn.Parameter]], encoder_depth: int, settings: OptimSettings
) -> list[torch.optim.Optimizer]:
    """One AdamW and, with `muon` and where there are such matrices, one Muon; each parameter is in one of them."""
    everything = list(named)
    matrices = [one for one in everything if settings.muon and _learns_by_muon(*one)]
    inside = {name for name, _ in matrices}
    rest = [one for one in everything if one[0] not in inside]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            parameter_groups(rest, encoder_depth, settings), settings.learning_rate, settings.betas, fused=True
        )
    ]
    if matrices:
        groups = parameter_groups(matrices, encoder_depth, settings)
        optimizers.append(Muon(groups, settings.learning_rate))
    return optimizers


def _learns_by_muon(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and _MATRIX.search(name) is not None and not _TABLE.search(name)


def learning_rate(step: int, num_steps: int, settings: OptimSettings) -> float:
    """Of `step` (from 0): linear over `warmup_steps`, then a half cosine to `final_share` of the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = min(1.0, (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * (settings.final_share + (1 - settings.final_share) * cosine)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Moves the averaged weights towards the model's; while few steps are done (from 0), faster than `decay` says."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.to(average[name].dtype), 1 - decay)
        else:
            average[name].copy_(value)
