"""SAM 2's image encoder: a trunk and a feature pyramid neck (Lin et al. 2017, arXiv:1612.03144).

The trunk is Hiera, as published, or EfficientNet-Lite0, whose features of real pictures a small model begins with
(EfficientTAM, arXiv:2411.18933, and EdgeTAM, arXiv:2501.07256, put light trunks there too).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.efficientnet import EfficientNetLite0
from models.sam2.config import HieraConfig
from models.sam2.hiera import Hiera


@dataclass(frozen=True)
class ImageFeatures:
    """Three levels, finest first, at strides 4, 8 and 16: features (B, C, h, w) and their positions (1, C, h, w)."""

    features: list[Tensor]
    positions: list[Tensor]


class ImageEncoder(nn.Module):
    """Normalised pixels (B, 3, S, S) -> ImageFeatures.

    The coarsest stage only feeds the level above it and is not returned, as in the published `sam2` (`scalp` 1).
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.trunk = Hiera(config) if config.trunk == "hiera" else EfficientNetLite0()
        self.neck = FpnNeck(config.level_widths, config.neck_dim)

    def forward(self, pixels: Tensor) -> ImageFeatures:
        features = self.neck(self.trunk(pixels))[:-1]
        return ImageFeatures(features, [sine_positions(x.shape[1], x.shape[2], x.shape[3], x) for x in features])


class FpnNeck(nn.Module):
    """Every stage as `neck_dim` channels; the last is added, enlarged, to the one before it, the finer stay apart."""

    def __init__(self, stage_dims: Sequence[int], neck_dim: int) -> None:
        super().__init__()
        # Published checkpoints count the levels from the coarsest.
        self.convs = nn.ModuleList(LateralConv(dim, neck_dim) for dim in reversed(stage_dims))

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        levels = [conv(x) for conv, x in zip(reversed(self.convs), stages, strict=True)]
        levels[-2] = levels[-2] + F.interpolate(levels[-1], scale_factor=2.0, mode="nearest")
        return levels


class LateralConv(nn.Module):
    """A 1 x 1 convolution: (B, dim, h, w) -> (B, neck_dim, h, w)."""

    def __init__(self, dim: int, neck_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, neck_dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def sine_positions(num_channels: int, height: int, width: int, like: Tensor) -> Tensor:
    """Sine positions (1, num_channels, height, width), rows in the first half of the channels, columns in the second.

    Those of DETR (Carion et al. 2020, arXiv:2005.12872), normalised to (0, 2 pi], temperature 10,000; device and dtype
    of `like`. `num_channels` is a multiple of 4.
    """
    assert num_channels % 4 == 0
    frequencies = 10_000.0 ** (-torch.arange(num_channels // 4, device=like.device) / (num_channels // 4))
    lines = []
    for size in (height, width):
        place = torch.arange(1, size + 1, device=like.device) / (size + 1e-6) * 2 * math.pi
        angles = place[:, None] * frequencies
        lines.append(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).T)  # (C / 2, size)
    rows = lines[0][:, :, None].expand(-1, -1, width)
    columns = lines[1][:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None].to(like.dtype)
