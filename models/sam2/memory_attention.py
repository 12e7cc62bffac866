"""SAM 2's memory attention: a frame's features attend to themselves and to what is remembered of other frames.

Facts: `sam2` `modeling/memory_attention.py` and `modeling/sam/transformer.py`; axial rotary positions from Heo et al.
2024, arXiv:2403.13298.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_ENTRIES = 1 << 20  # of the scores that a CPU holds at a time: more leave its cache between the two products


class MemoryAttention(nn.Module):
    """`depth` layers of self-attention, attention to the memory and an MLP.

    N cells of a frame, K tokens of memory: P pointers after T frames of N cells each.
    """

    def __init__(self, *, embed_dim: int, memory_dim: int, depth: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(embed_dim, memory_dim, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, image: Tensor, image_pe: Tensor, memory: Tensor, memory_pe: Tensor, num_pointers: int) -> Tensor:
        """The image as its memory shows it: (B, C, E, E).

        image: (G, C, E, E), where G is B, or 1 for one frame and B objects, whose first self-attention is then shared;
        image_pe: (1, C, E, E); memory: (B, K, M); memory_pe: (1 or B, K, M); the last `num_pointers` tokens have no
        place in the frame.
        """
        rotation = axial_rotation(image.shape[1], image.shape[2], image.device)
        x = (image + 0.1 * image_pe).flatten(2).transpose(1, 2)  # (G, N, C)
        keys = memory + memory_pe
        for layer in self.layers:
            x = layer(x, keys, memory, rotation, num_pointers)
        return self.norm(x).transpose(1, 2).unflatten(2, image.shape[2:])  # (B, C, E, E)


class MemoryAttentionLayer(nn.Module):
    """Pre-norm: (G, N, C) -> (B, N, C)."""

    def __init__(self, embed_dim: int, memory_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(embed_dim, embed_dim)
        self.cross_attn_image = RotaryAttention(embed_dim, memory_dim)
        self.linear1 = nn.Linear(embed_dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, keys: Tensor, memory: Tensor, rotation: Tensor, num_pointers: int) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed, normed, rotation)
        x = x + self.cross_attn_image(self.norm2(x), keys, memory, rotation, num_pointers)
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class RotaryAttention(nn.Module):
    """Attention of one head whose queries and keys are turned by their place: (G, N, C), (B, K, M) -> (B, N, C)."""

    def __init__(self, embed_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(memory_dim, embed_dim)
        self.v_proj = nn.Linear(memory_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, rotation: Tensor, num_pointers: int = 0) -> Tensor:
        """rotation: (N, C / 2) complex; the last `num_pointers` keys are not turned."""
        q = rotate(self.q_proj(q), rotation).expand(len(k), -1, -1)
        k = self.k_proj(k)
        placed = k.shape[1] - num_pointers
        k = torch.cat([rotate(k[:, :placed], rotation), k[:, placed:]], dim=1) if num_pointers else rotate(k, rotation)
        if v.shape[-1] < q.shape[-1] and q.device.type == "cpu":
            return self.out_proj(self.v_proj(attend_narrow(q, k, v)))
        return self.out_proj(F.scaled_dot_product_attention(q[:, None], k[:, None], self.v_proj(v)[:, None])[:, 0])


def attend_narrow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (B, N, C) to values (B, K, M) that are narrower than the keys (B, K, C): (B, N, M).

    A row of attention sums to 1, so attention (v Wv + b) = (attention v) Wv + b: values are projected afterwards, and
    the product with them, nearly half of the work, is as much cheaper as they are narrower.
    """
    rows = max(1, BLOCK_ENTRIES // k.shape[1])
    q, k = q * q.shape[-1] ** -0.5, k.transpose(1, 2)  # (B, C, K)
    found = [
        torch.cat([(block @ own_keys).softmax(-1) @ own_values for block in queries.split(rows)])
        for queries, own_keys, own_values in zip(q, k, v, strict=True)
    ]
    return torch.stack(found)


def axial_rotation(dim: int, side: int, device: torch.device) -> Tensor:
    """The turn of every cell of a square grid, row by row: complex (side * side, dim / 2).

    Pairs of channels turn by the column, those of the second half by the row, each at a frequency of its own.
    """
    frequencies = 10_000.0 ** (-torch.arange(0, dim, 4, device=device) / dim)  # (dim / 4,)
    angles = torch.arange(side, device=device)[:, None] * frequencies  # (side, dim / 4)
    columns, rows = angles.repeat(side, 1), angles.repeat_interleave(side, dim=0)
    angles = torch.cat([columns, rows], dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns pairs of channels of (B, T*N, C), each frame's N cells by `rotation` (N, C / 2), in fp32."""
    pairs = torch.view_as_complex(x.float().unflatten(2, (-1, 2)).unflatten(1, (-1, len(rotation))))
    return torch.view_as_real(pairs * rotation).flatten(3).flatten(1, 2).to(x.dtype)
