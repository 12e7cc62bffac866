"""SAM 2's memory encoder: a frame and an object's mask on it become what is remembered of both.

Facts: `sam2` `modeling/memory_encoder.py`; the fuser's blocks are ConvNeXt's (Liu et al. 2022, arXiv:2201.03545).
"""

import torch
from torch import Tensor, nn

from models.layers import LayerNorm2d


class MemoryEncoder(nn.Module):
    """Frame features (G, C, E, E) and masks (B, 1, 16E, 16E), for B a multiple of G -> memories (B, M, E, E)."""

    def __init__(self, *, embed_dim: int, memory_dim: int, fuser_depth: int) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler(embed_dim)
        self.pix_feat_proj = nn.Conv2d(embed_dim, embed_dim, kernel_size=1)
        self.fuser = Fuser(embed_dim, fuser_depth)
        # Published code leaves the projection out where it would not change the width; none of its sizes does.
        self.out_proj = nn.Conv2d(embed_dim, memory_dim, kernel_size=1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        return self.out_proj(self.fuser(self.pix_feat_proj(features) + self.mask_downsampler(masks)))


class MaskDownSampler(nn.Module):
    """Four halvings, each with four times the channels: (B, 1, 16E, 16E) -> (B, C, E, E)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        for channels in (1, 4, 16, 64):
            self.encoder.append(nn.Conv2d(channels, 4 * channels, kernel_size=3, stride=2, padding=1))
            self.encoder.append(LayerNorm2d(4 * channels))
            self.encoder.append(nn.GELU())
        self.encoder.append(nn.Conv2d(256, embed_dim, kernel_size=1))

    def forward(self, masks: Tensor) -> Tensor:
        return self.encoder(masks)


class Fuser(nn.Module):
    """`depth` ConvNeXt blocks on (B, C, E, E)."""

    def __init__(self, embed_dim: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(embed_dim) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ConvNextBlock(nn.Module):
    """A 7 x 7 depthwise convolution and an MLP at each place, scaled, added to the input: (B, C, E, E) -> the same."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(embed_dim, embed_dim, kernel_size=7, padding=3, groups=embed_dim)
        self.norm = LayerNorm2d(embed_dim)
        self.pwconv1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * embed_dim, embed_dim)
        self.gamma = nn.Parameter(torch.full((embed_dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # (B, E, E, C)
        return x + (self.gamma * self.pwconv2(self.act(self.pwconv1(places)))).permute(0, 3, 1, 2)
