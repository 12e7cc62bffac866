from collections.abc import Callable

import pytest
import torch
from torch import nn

from models.clip.build import build_clip
from models.clip.config import ClipConfig
from models.clip.model import Clip

MakeClip = Callable[[ClipConfig], Clip]


def randomize(model: nn.Module) -> None:
    """Every parameter and running statistic becomes random: what starts at zero or one would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or name == "logit_scale":
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.data.copy_(0.5 + noise.abs())
        elif tensor.ndim == 1:
            tensor.data.copy_(0.3 * noise + name.endswith("weight"))
        elif "embedding" in name:
            tensor.data.copy_(0.5 * noise)
        else:
            tensor.data.copy_(noise * tensor[0].numel() ** -0.5)


@pytest.fixture
def make_clip() -> MakeClip:
    """Builds a CLIP of random weights, ready for inference."""

    def make(config: ClipConfig) -> Clip:
        clip = build_clip(config).eval().requires_grad_(False)
        randomize(clip)
        return clip

    return make


@pytest.fixture
def randomized() -> Callable[[nn.Module], None]:
    return randomize


@pytest.fixture
def merges() -> str:
    """A vocabulary of six merges in OpenAI's form: 520 tokens, as the debug sizes have."""
    return '"tiny#version: 0.2\nr e\nre d</w>\nb a\nl l</w>\nba ll</w>\nt h\n'
