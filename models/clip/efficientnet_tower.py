"""An image tower on a classifier's trunk: EfficientNet-Lite0 with its head, and what a CLIP needs behind it.

Two projections read the trunk's pooled maps. `kinds`, linear, reads the head that the classifier's weights read, so a
row of those weights has a place in the space of images, with no picture of its class. `looks` reads all levels and
the pixels' colours too, as these are nearly gone from the last level. Each half of a feature has the same length,
whatever the other says.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.efficientnet import LEVEL_WIDTHS, EfficientNetLite0, FixedBatchNorm

HEAD_WIDTH = 1280
NUM_SHADES = 6  # of each of red, green and blue, in the histogram of colours
CELL = 4  # pixels of the side of what counts as one colour there
# The head's means, each level's means and deviations, the histogram.
POOLED_WIDTH = HEAD_WIDTH + 2 * sum(LEVEL_WIDTHS) + NUM_SHADES**3


class EfficientNetTower(nn.Module):
    """Image (B, 3, H, W), normalised -> features (B, embed_dim) of unit length; H and W are multiples of 32.

    Of `embed_dim` components `kinds_dim` tell kinds, the rest looks.
    """

    def __init__(self, *, kinds_dim: int, looks_width: int, embed_dim: int) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0()
        self._conv_head = nn.Conv2d(LEVEL_WIDTHS[-1], HEAD_WIDTH, kernel_size=1, bias=False)
        self._bn1 = FixedBatchNorm(HEAD_WIDTH)
        self.kinds = nn.Linear(HEAD_WIDTH, kinds_dim, bias=False)
        self.pooled_norm = PooledNorm(POOLED_WIDTH)
        self.looks = nn.Sequential(
            nn.Linear(POOLED_WIDTH, looks_width), nn.GELU(), nn.Linear(looks_width, embed_dim - kinds_dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.pool(images))

    def freeze(self) -> None:
        """Leaves `looks` alone to learn: the trunk and what reads kinds stay as the classifier has them."""
        self.requires_grad_(False)
        self.looks.requires_grad_(True)

    def pool(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, POOLED_WIDTH): means of the head's map, each level's means and deviations, and the
        shares of colours."""
        levels: list[Tensor] = self.trunk(images)
        head = F.relu6(self._bn1.after(self._conv_head, levels[-1]), inplace=True)
        statistics = [part for level in levels for part in (level.mean((2, 3)), level.std((2, 3), correction=0))]
        return torch.cat([head.mean((2, 3)), *statistics, colour_histogram(images)], dim=1)

    def project(self, pooled: Tensor) -> Tensor:
        """What `pool` gives -> features (B, embed_dim)."""
        kinds = F.normalize(self.kinds(pooled[:, :HEAD_WIDTH]), dim=-1)
        looks = F.normalize(self.looks(self.pooled_norm(pooled)), dim=-1)
        return torch.cat([kinds, looks], dim=-1) * 0.5**0.5


def colour_histogram(images: Tensor) -> Tensor:
    """The share of each colour (B, NUM_SHADES ** 3) in images (B, 3, H, W) of -1 to 1; one between two shades counts
    for both."""
    cells = F.avg_pool2d(images, CELL).flatten(2)  # (B, 3, P)
    position = (cells.clamp(-1, 1) + 1) / 2 * (NUM_SHADES - 1)
    shades = torch.arange(NUM_SHADES, dtype=images.dtype, device=images.device)
    red, green, blue = (1 - (position[..., None] - shades).abs()).clamp(min=0).unbind(1)  # each (B, P, NUM_SHADES)
    pairs = (red[..., :, None] * green[..., None, :]).flatten(2)  # (B, P, NUM_SHADES ** 2)
    return (pairs.transpose(1, 2) @ blue).flatten(1) / cells.shape[-1]


class PooledNorm(nn.Module):
    """Brings pooled features to mean 0 and deviation 1 by statistics that are measured once, before a training."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, pooled: Tensor) -> Tensor:
        return (pooled - self.mean) / self.deviation
