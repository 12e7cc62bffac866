"""The attention pool of CLIP's ModifiedResNet (facts: CLIP's published `model.py`), over the image or over regions."""

import torch
from torch import Tensor, nn

from models.clip.positions import interpolate_positions


class AttentionPool2d(nn.Module):
    """Pools a feature map by one attention layer whose only query is the map's mean.

    The published pool is that over the whole image. Over a region, the mean is the region's, and a cell's attention
    is weighted by the share of it that belongs to the region; with weights of one both are the same computation.
    """

    def __init__(self, *, grid_size: int, width: int, num_heads: int, embed_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.positional_embedding = nn.Parameter(nn.init.normal_(torch.empty(1 + grid_size**2, width), std=width**-0.5))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, feature_map: Tensor, weights: Tensor) -> Tensor:
        """(B, C, h, w) and the regions' shares of each cell, (B, K, h, w) in 0..1 -> (B, K, embed_dim)."""
        positions = interpolate_positions(self.positional_embedding, *feature_map.shape[-2:])
        cells = feature_map.flatten(2).transpose(1, 2)  # (B, N, C) with N = h * w
        weights = weights.flatten(2)  # (B, K, N)
        total = weights.sum(dim=-1, keepdim=True)
        tiny = torch.finfo(weights.dtype).tiny
        means = (weights / total.clamp(min=tiny)) @ cells + positions[0]  # (B, K, C)
        cells = cells + positions[1:]

        q = self._heads(self.q_proj(means))  # (B, heads, K, d)
        of_means = (q * self._heads(self.k_proj(means))).sum(dim=-1, keepdim=True)  # (B, heads, K, 1)
        of_cells = q @ self._heads(self.k_proj(cells)).transpose(-1, -2)  # (B, heads, K, N)
        scores = torch.cat([of_means, of_cells], dim=-1) * q.shape[-1] ** -0.5
        shares = torch.cat([torch.ones_like(total), weights], dim=-1)[:, None]  # (B, 1, K, 1 + N)
        attention = (scores + shares.log()).softmax(dim=-1)
        out = attention[..., :1] * self._heads(self.v_proj(means))
        out = out + attention[..., 1:] @ self._heads(self.v_proj(cells))  # (B, heads, K, d)
        return self.c_proj(out.transpose(1, 2).flatten(2))  # (B, K, embed_dim)

    def pool(self, feature_map: Tensor) -> Tensor:
        """`forward` over the whole of (B, C, h, w) -> (B, embed_dim).

        One query and few cells: the query goes through the keys' weights and what it attends to through the values',
        so that neither keys nor values are ever made. The keys' bias adds the same to all scores of a query.
        """
        cells = feature_map.flatten(2).transpose(1, 2)  # (B, N, C)
        cells = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        cells = cells + interpolate_positions(self.positional_embedding, *feature_map.shape[-2:])
        heads = (self.num_heads, -1)
        q = self.q_proj(cells[:, 0]).unflatten(1, heads).transpose(0, 1)  # (heads, B, d)
        q = (q @ self.k_proj.weight.unflatten(0, heads)).transpose(0, 1)  # (B, heads, C)
        attention = (q @ cells.transpose(1, 2) * (cells.shape[-1] / self.num_heads) ** -0.5).softmax(dim=-1)
        attended = (attention @ cells).transpose(0, 1)  # (heads, B, C)
        out = (attended @ self.v_proj.weight.unflatten(0, heads).transpose(1, 2)).transpose(0, 1).flatten(1)
        return self.c_proj(out + self.v_proj.bias)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, heads, L, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
