"""SAM's image encoder: a ViT with windowed and global attention and decomposed relative positions.

Facts (shapes, names, formulas): segment-anything `modeling/image_encoder.py`; ViTDet (Li et al. 2022,
arXiv:2203.16527) for the windows, MViTv2 (Li et al. 2021, arXiv:2112.01526) for the decomposed relative positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import DropPath, LayerNorm2d, MlpBlock

# A CPU's fused attention is slow backwards (1.7 times the encoder's whole step at 24 x 24 cells), so training there
# holds the pairs of all cells, as long as they are so few.
MAX_PAIRED_CELLS = 1024
STRIP_PAIRS = 1 << 20  # of cells, in a CPU's strips: what a core's share of the cache holds


class ImageEncoderViT(nn.Module):
    """Image (B, 3, S, S), normalised -> embedding (B, C, E, E) with E = S / patch_size.

    `window_size` is in patches; blocks outside `global_attn_indexes` attend within windows, 0 means none do.
    """

    def __init__(
        self,
        *,
        embedding_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        global_attn_indexes: tuple[int, ...],
        window_size: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, embedding_size, embedding_size, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, 0 if index in global_attn_indexes else window_size, embedding_size)
            for index in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dim, out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images) + self.pos_embed  # (B, E, E, D)
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))  # (B, C, E, E)

    def set_drop_path(self, rate: float) -> None:
        """Sets stochastic depth for training: the rate rises linearly over the blocks from 0 to `rate`."""
        last = max(len(self.blocks) - 1, 1)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            block.drop_path.rate = rate * index / last


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each: (B, 3, S, S) -> (B, E, E, D)."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)  # (B, E, E, D)


class Block(nn.Module):
    """Pre-norm transformer block on (B, H, W, D), attending within windows unless `window_size` is 0."""

    def __init__(self, embed_dim: int, num_heads: int, window_size: int, embedding_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, num_heads, window_size or embedding_size)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MlpBlock(embed_dim, 4 * embed_dim, nn.GELU())
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm1(x)
        if self.window_size == 0:
            x = self.attn(x)
        else:
            height, width = x.shape[1:3]
            # The zeros that pad the last windows are attended to, as when the published weights were trained.
            x = join_windows(self.attn(split_windows(x, self.window_size)), self.window_size, height, width)
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Multi-head attention over a (B, N, N, D) grid with a relative-position bias for rows and one for columns.

    The bias is folded into the product of queries and keys: a query carries its bias toward each row and each column
    as further channels, a key picks its own row and column by a 1. So no matrix of all pairs is ever held, which at
    64 x 64 tokens and 16 heads would take 1 GiB. In fp32 a CPU is bound by products, of which these channels make
    three times as many; there the bias is added to strips of that matrix.
    """

    def __init__(self, embed_dim: int, num_heads: int, grid_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid_size - 1, embed_dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid_size - 1, embed_dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        qkv = self.qkv(x).reshape(batch, height, width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)  # each (B, heads, H, W, d)
        toward_rows = relative_positions(self.rel_pos_h, height)  # (H, H, d)
        toward_columns = relative_positions(self.rel_pos_w, width)  # (W, W, d)
        bias_h = torch.einsum("bnhwd,hkd->bnhwk", q, toward_rows)
        bias_w = torch.einsum("bnhwd,wkd->bnhwk", q, toward_columns)
        if q.device.type == "cpu" and q.dtype == torch.float32 and not torch.is_grad_enabled():
            out = attend_in_strips(q, k, v, bias_h, bias_w).transpose(1, 2)  # (B, H*W, heads, d)
            return self.proj(out.reshape(batch, height, width, dim))
        channels = q.shape[-1]
        q = torch.cat([q * channels**-0.5, bias_h.to(q.dtype), bias_w.to(q.dtype)], dim=-1)  # (B, heads, H, W, d+H+W)
        places = one_hot_places(height, width, k.device).to(k.dtype).expand(batch, self.num_heads, -1, -1, -1)
        k = torch.cat([k, places], dim=-1)
        q, k, v = (x.flatten(2, 3) for x in (q, k, v))
        if torch.is_grad_enabled() and q.device.type == "cpu" and height * width <= MAX_PAIRED_CELLS:
            out = (q @ k.transpose(2, 3)).softmax(-1) @ v  # (B, heads, H*W, d)
        else:
            v = F.pad(v, (0, height + width))  # a fused attention wants values as wide as keys
            out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :channels]
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, dim))


def attend_in_strips(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """Attention of every cell to all cells, `STRIP_PAIRS` pairs at a time: (B, heads, H, W, d) -> (B, heads, H*W, d).

    bias_h: (B, heads, H, W, H) and bias_w: (B, heads, H, W, W), what a query adds for a key's row and column.
    """
    batch, heads, height, width, channels = q.shape
    cells = height * width
    q, k, v, bias_h, bias_w = (x.flatten(0, 1).flatten(1, 2) for x in (q * channels**-0.5, k, v, bias_h, bias_w))
    num_heads, num_queries = max(1, STRIP_PAIRS // cells**2), max(1, STRIP_PAIRS // cells)
    out = torch.empty_like(q)
    for some in (slice(start, start + num_heads) for start in range(0, len(q), num_heads)):
        keys = k[some].transpose(1, 2)
        for strip in (slice(start, start + num_queries) for start in range(0, cells, num_queries)):
            scores = q[some, strip] @ keys  # (heads, queries, H*W)
            by_place = scores.unflatten(2, (height, width))
            by_place += bias_h[some, strip, :, None]
            by_place += bias_w[some, strip, None, :]
            out[some, strip] = scores.softmax(-1) @ v[some]
    return out.unflatten(0, (batch, heads))


def one_hot_places(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(height, width, height + width): each cell's row and, after all rows, its column, one-hot."""
    rows = torch.eye(height, device=device)[:, None].expand(-1, width, -1)
    columns = torch.eye(width, device=device).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1)


def relative_positions(table: Tensor, size: int) -> Tensor:
    """The embedding of every (query, key) offset on a line of `size`: (2 * size - 1, d) -> (size, size, d)."""
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position[None, :] + size - 1]


def split_windows(x: Tensor, size: int) -> Tensor:
    """(B, H, W, D) -> (B * windows, size, size, D), zero padded at the bottom and right to whole windows."""
    height, width, dim = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    x = x.unflatten(1, (-1, size)).unflatten(3, (-1, size))  # (B, rows, size, columns, size, D)
    return x.transpose(2, 3).reshape(-1, size, size, dim)


def join_windows(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Undoes `split_windows`, padding included: (B * windows, size, size, D) -> (B, H, W, D)."""
    rows, columns = -(-height // size), -(-width // size)
    x = windows.unflatten(0, (-1, rows, columns))  # (B, rows, columns, size, size, D)
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, rows*size, columns*size, D)
    return x[:, :height, :width]
