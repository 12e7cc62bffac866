"""CLIP's ViT tower (facts: CLIP's published `model.py`; arXiv:2103.00020, section 2.4)."""

import torch
from torch import Tensor, nn

from models.clip.config import Activation
from models.clip.positions import interpolate_positions
from models.clip.transformer import Transformer


class VisionTransformer(nn.Module):
    """Image (B, 3, H, W), normalised -> features (B, embed_dim), from the class token.

    H and W are multiples of the patch size; where they give another grid than `grid_size`, the positions are
    interpolated.
    """

    def __init__(
        self,
        *,
        grid_size: int,
        patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        embed_dim: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(nn.init.normal_(torch.empty(width), std=scale))
        self.positional_embedding = nn.Parameter(nn.init.normal_(torch.empty(1 + grid_size**2, width), std=scale))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width=width, num_layers=num_layers, num_heads=num_heads, activation=activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(nn.init.normal_(torch.empty(width, embed_dim), std=scale))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)  # (B, D, rows, columns)
        positions = interpolate_positions(self.positional_embedding, *x.shape[-2:])
        x = x.flatten(2).transpose(1, 2)  # (B, rows * columns, D)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + positions
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj
