"""Hiera (Ryali et al. 2023, arXiv:2306.00989) as SAM 2 uses it: windowed attention, pooled queries between stages.

Absolute positions are those of Bolya et al. 2023 (arXiv:2311.05613). Parameter names are those of the published `sam2`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from models.layers import Mlp
from models.sam.image_encoder import join_windows, split_windows
from models.sam2.config import HieraConfig


class Hiera(nn.Module):
    """The trunk: normalised pixels (B, 3, S, S) -> every stage's features (B, C, h, w), finest first."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        grid, window = config.position_grid_size, config.window_sizes[0]
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.pos_embed = Parameter(nn.init.trunc_normal_(torch.zeros(1, config.embed_dim, grid, grid), std=0.02))
        self.pos_embed_window = Parameter(torch.zeros(1, config.embed_dim, window, window))
        self.blocks = nn.ModuleList()
        self.stage_ends: set[int] = set()
        dim, window = config.embed_dim, config.window_sizes[0]
        for stage, depth in enumerate(config.stage_depths):
            dim_out, num_heads = config.embed_dim << stage, config.num_heads << stage
            for _ in range(depth):
                is_global = len(self.blocks) in config.global_attn_indexes
                self.blocks.append(MultiScaleBlock(dim, dim_out, num_heads, 0 if is_global else window))
                # The block that pools still sees the finer grid, so the stage's own window starts after it.
                dim, window = dim_out, config.window_sizes[stage]
            self.stage_ends.add(len(self.blocks) - 1)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x = self.patch_embed(pixels)
        x = x + self._positions(x.shape[1], x.shape[2])
        stages = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                stages.append(x.permute(0, 3, 1, 2))  # (B, C, h, w)
        return stages

    def _positions(self, height: int, width: int) -> Tensor:
        window = self.pos_embed_window.shape[-1]
        tiled = self.pos_embed_window.tile(1, 1, height // window, width // window)
        positions = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic") + tiled
        return positions.permute(0, 2, 3, 1)  # (1, h, w, C)


class PatchEmbed(nn.Module):
    """Overlapping patches, a 7 x 7 kernel every 4 pixels: (B, 3, S, S) -> (B, S / 4, S / 4, C)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=7, stride=4, padding=3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).permute(0, 2, 3, 1)  # (B, h, w, C)


class MultiScaleBlock(nn.Module):
    """A transformer block, (B, h, w, dim) -> (B, h, w, dim_out); where the widths differ, h and w are halved.

    `window_size` 0 is global attention.
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.pools = dim != dim_out
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, self.pools)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = GeluMlp(dim_out, 4 * dim_out, dim_out, 2)
        if self.pools:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        shortcut = halve(self.proj(normed)) if self.pools else x
        if self.window_size:
            windows = self.attn(split_windows(normed, self.window_size))
            attended = join_windows(windows, windows.shape[1], shortcut.shape[1], shortcut.shape[2])
        else:
            attended = self.attn(normed)
        x = shortcut + attended
        return x + self.mlp(self.norm2(x))


class MultiScaleAttention(nn.Module):
    """Self-attention over (B, h, w, dim) -> (B, h, w, dim_out), its queries halved to (h / 2, w / 2) if it `pools`."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, pools: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pools = pools
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query = halve(query) if self.pools else query
        height, width = query.shape[1:3]
        heads = [t.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (query, key, value)]
        attended = F.scaled_dot_product_attention(*heads)  # (B, heads, h*w, C / heads)
        return self.proj(attended.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class GeluMlp(Mlp):
    """`Mlp` with GELU in place of ReLU: (..., input_dim) -> (..., output_dim)."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x)


def halve(x: Tensor) -> Tensor:
    """The maximum of every 2 x 2 cells: (B, h, w, C) -> (B, h / 2, w / 2, C)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)  # (B, C, h, w) inside
