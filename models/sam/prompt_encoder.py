"""SAM's prompt encoder: points, boxes, masks and further embeddings become tokens and a dense embedding.

Facts: segment-anything `modeling/prompt_encoder.py`, and for boxes in SAM 2 that of `sam2`; random Fourier features
from Tancik et al. 2020, arXiv:2006.10739.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.layers import LayerNorm2d
from models.sam.prompts import Prompts

NUM_MASK_CHANNELS = 16  # of the last strided convolution on a mask prompt


class PromptEncoder(nn.Module):
    """Prompts -> sparse tokens (B, N, C) and a dense embedding (B or 1, C, E, E).

    The dense embedding has batch 1 if there is no mask prompt: it is then the same for every prompt. With
    `corners_are_points`, as in SAM 2, a box is two points before the others, and a point that is none ends them.
    """

    def __init__(
        self, *, embed_dim: int, image_size: int, embedding_size: int, corners_are_points: bool = False
    ) -> None:
        super().__init__()
        self.corners_are_points = corners_are_points
        self.embed_dim = embed_dim
        self.image_size = image_size
        self.embedding_size = embedding_size
        self.pe_layer = RandomFourierFeatures(embed_dim // 2)
        # In the order of the checkpoints: background point, foreground point, first corner, second corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, NUM_MASK_CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm2d(NUM_MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(NUM_MASK_CHANNELS // 4, NUM_MASK_CHANNELS, kernel_size=2, stride=2),
            LayerNorm2d(NUM_MASK_CHANNELS),
            nn.GELU(),
            nn.Conv2d(NUM_MASK_CHANNELS, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def forward(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        dtype = self.no_mask_embed.weight.dtype
        tokens = []
        corners = [] if prompts.boxes is None else [self._embed_boxes(prompts.boxes)]
        if self.corners_are_points:
            tokens += corners
        if prompts.points is not None and prompts.labels is not None:
            tokens.append(
                self._embed_points(prompts.points, prompts.labels, pad=self.corners_are_points or not corners)
            )
        elif self.corners_are_points and corners:
            tokens.append(self.not_a_point_embed.weight.expand(len(prompts), 1, -1))
        if not self.corners_are_points:
            tokens += corners
        if prompts.embeddings is not None:
            tokens.append(prompts.embeddings.to(dtype))
        no_tokens = self.no_mask_embed.weight.new_empty(len(prompts), 0, self.embed_dim)
        sparse = torch.cat([no_tokens, *tokens], dim=1)  # (B, N, C)
        if prompts.masks is not None:
            return sparse, self.mask_downscaling(prompts.masks.to(dtype))
        return sparse, self.no_mask_embed.weight[:, :, None, None].expand(-1, -1, *[self.embedding_size] * 2)

    def dense_pe(self) -> Tensor:
        """Position encoding of the image embedding's cells: (1, C, E, E)."""
        size = self.embedding_size
        centres = (torch.arange(size, device=self.no_mask_embed.weight.device) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        encoding = self.pe_layer(torch.stack([x, y], dim=-1))  # (E, E, C)
        return encoding.permute(2, 0, 1)[None].to(self.no_mask_embed.weight.dtype)  # (1, C, E, E)

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """(B, N, 2) pixels and (B, N) labels -> (B, N, C), one token more with `pad`: a point that is none."""
        if pad:
            points = torch.cat([points, points.new_zeros(len(points), 1, 2)], dim=1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1)
        where = self._encode_pixels(points)
        table = torch.cat([self.not_a_point_embed.weight, *self._kinds()[:2]])  # (3, C), for labels -1, 0 and 1
        return torch.where(labels[..., None] >= 0, where, 0) + table[labels.long() + 1]

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        """(B, 4) pixels -> (B, 2, C), a token a corner."""
        corners = self._encode_pixels(boxes.reshape(-1, 2, 2))
        return corners + torch.cat(self._kinds()[2:])

    def _kinds(self) -> list[Tensor]:
        """The four type embeddings, each (1, C)."""
        return [kind.get_parameter("weight") for kind in self.point_embeddings]

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """(..., 2) pixel indexes -> (..., C): their centres are half a pixel on."""
        return self.pe_layer((pixels.float() + 0.5) / self.image_size).to(self.no_mask_embed.weight.dtype)


class RandomFourierFeatures(nn.Module):
    """Positions (..., 2) in [0, 1] -> (..., 2 * num_features): sine and cosine at fixed random frequencies, in fp32."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_features))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # A half-precision model keeps fp32 frequencies: rounded to bf16 they would displace points by about a pixel.
        exact = self.positional_encoding_gaussian_matrix
        super()._apply(fn, recurse)
        self.positional_encoding_gaussian_matrix = exact.to(self.positional_encoding_gaussian_matrix.device)
        return self

    def forward(self, positions: Tensor) -> Tensor:
        with torch.autocast(positions.device.type, enabled=False):
            angles = 2 * math.pi * ((2 * positions.float() - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
