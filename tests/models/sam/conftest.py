from collections.abc import Callable

import pytest
import torch

from models.sam.build import build_sam
from models.sam.config import SamConfig
from models.sam.model import Sam

MakeSam = Callable[[SamConfig], Sam]


@pytest.fixture
def make_sam() -> MakeSam:
    """Builds a SAM whose every parameter is random: what starts at zero (positions) would hide mistakes."""

    def make(config: SamConfig) -> Sam:
        generator = torch.Generator().manual_seed(0)
        sam = build_sam(config).eval().requires_grad_(False)
        for name, parameter in sam.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise + name.endswith("weight"))
            elif "pos_embed" in name or "rel_pos" in name or parameter.shape[0] == 1:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
        return sam

    return make
