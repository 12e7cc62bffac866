"""The two-way transformer of SAM's mask decoder: tokens attend to the image, the image attends to the tokens.

Facts: segment-anything `modeling/transformer.py`; appendix A of the paper (arXiv:2304.02643).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks, each with an MLP from `make_mlp`, then a last attention from the tokens to the image."""

    def __init__(self, *, depth: int, embed_dim: int, num_heads: int, make_mlp: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(embed_dim, num_heads, make_mlp, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = TokenToImageAttention(embed_dim, embed_dim // 2, num_heads)
        self.norm_final_attn = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Tensor, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the attended tokens (B, N, C) and the attended image (B, E*E, C).

        tokens: (B, N, C); they are their own position encoding. image: (G, E*E, C), for B a multiple of G: each image
        serves the B/G prompts that follow one another, and the first block projects it once for all of them.
        image_pe: (1, E*E, C).
        """
        tokens_pe = tokens
        device, dtype = image.device.type, image.dtype
        if torch.is_autocast_enabled(device):  # once, and not at every product
            dtype = torch.get_autocast_dtype(device)
            image, image_pe = image.to(dtype), image_pe.to(dtype)
        image, image_pe = image.contiguous(), image_pe.contiguous()  # sums would inherit a transposed layout
        for layer in self.layers:
            tokens, image = layer(tokens, image, tokens_pe, image_pe)
            image = image.to(dtype)  # autocast's norms are fp32 on a GPU
        attended = self.final_attn_token_to_image(tokens + tokens_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; each with a residual and a post-norm.

    In the first block the self-attention sees no position encoding and replaces the tokens: they are the encoding.
    """

    def __init__(self, embed_dim: int, num_heads: int, make_mlp: Callable[[], nn.Module], first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(embed_dim, embed_dim, num_heads)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.cross_attn_token_to_image = TokenToImageAttention(embed_dim, embed_dim // 2, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = make_mlp()
        self.norm3 = nn.LayerNorm(embed_dim)
        self.norm4 = nn.LayerNorm(embed_dim)
        self.cross_attn_image_to_token = ImageToTokenAttention(embed_dim, embed_dim // 2, num_heads)

    def forward(self, tokens: Tensor, image: Tensor, tokens_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + tokens_pe
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)

        placed_image = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + tokens_pe, placed_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(self.cross_attn_image_to_token(placed_image, tokens + tokens_pe, tokens, residual=image))
        return tokens, image


class Attention(nn.Module):
    """Multi-head attention that works at `internal_dim` channels: (B, N, C) queries, (B, M, C) keys -> (B, N, C).

    Queries, or keys and values, of a smaller batch G serve B/G of the other side each, and are projected once.
    """

    def __init__(self, embed_dim: int, internal_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embed_dim, internal_dim)
        self.k_proj = nn.Linear(embed_dim, internal_dim)
        self.v_proj = nn.Linear(embed_dim, internal_dim)
        self.out_proj = nn.Linear(internal_dim, embed_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, num_queries = max(len(q), len(k)), q.shape[1]
        if len(k) < len(q):  # (G, B/G*N, C): queries do not see each other, so one attention serves many
            q = q.unflatten(0, (len(k), -1)).flatten(1, 2)
        q, k, v = (self._split_heads(x) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        out = F.scaled_dot_product_attention(repeat_each(q, len(k)), k, v)
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (B, N, C) or (G, B/G*N, C)
        return out.reshape(batch, num_queries, -1)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)

    def _pays(self, tokens: Tensor) -> bool:
        """Whether projecting the few tokens twice is less work than projecting the image once."""
        return self.num_heads * tokens.shape[1] < self.q_proj.out_features

    def _to_channels(self, x: Tensor, weight: Tensor) -> Tensor:
        """Each head's (B, heads, N, d) through its d rows of weight (internal, C) -> (B, heads*N, C)."""
        batch, heads, num_tokens, _ = x.shape
        x = x.transpose(0, 1).flatten(1, 2) @ weight.unflatten(0, (heads, -1))  # (heads, B*N, C)
        return x.unflatten(1, (batch, num_tokens)).transpose(0, 1).flatten(1, 2)


class TokenToImageAttention(Attention):
    """A few tokens attend to many image positions.

    (q Wq) (k Wk)' = (q Wq Wk') k' and attention (v Wv) = (attention v) Wv: associated so, the image itself is never
    projected. The keys' bias adds the same to every position's score, so it has no effect; the values' is added last.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if len(k) < len(q) or not self._pays(tokens=q):
            return super().forward(q, k, v)
        batch, num_tokens, _ = q.shape
        q = self._split_heads(self.q_proj(q))
        q = self._to_channels(q * q.shape[-1] ** -0.5, self.k_proj.weight)  # (B, heads*N, C)
        seen = (q @ k.transpose(1, 2)).softmax(-1) @ v  # (B, heads*N, C)
        seen = seen.unflatten(1, (self.num_heads, num_tokens)).transpose(0, 1).flatten(1, 2)  # (heads, B*N, C)
        out = seen @ self.v_proj.weight.unflatten(0, (self.num_heads, -1)).transpose(1, 2)  # (heads, B*N, d)
        out = out.unflatten(1, (batch, num_tokens)).permute(1, 2, 0, 3).flatten(2)  # (B, N, internal)
        return self.out_proj(out + self.v_proj.bias)


class ImageToTokenAttention(Attention):
    """Many image positions attend to a few tokens; the answer is added to a `residual` (B or G, M, C).

    Associated as (x Wq) k' = x (k Wq')' and attention (v Wv) Wo = attention (v Wv Wo), so that only tokens are
    projected. An image that several prompts share is projected once instead.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, residual: Tensor | None = None) -> Tensor:
        residual = None if residual is None else repeat_each(residual, len(k))
        if not self._pays(tokens=k):
            out = super().forward(q, k, v)
            return out if residual is None else residual + out
        k, values = self._split_heads(self.k_proj(k)), self._split_heads(self.v_proj(v))  # (B, heads, N, d)
        k = k * k.shape[-1] ** -0.5
        if len(q) < len(k):
            scores = self._shared_scores(q, k)
        else:
            offset = k @ self.q_proj.bias.view(self.num_heads, -1, 1)  # (B, heads, N, 1)
            scores = self._to_channels(k, self.q_proj.weight) @ q.transpose(1, 2)  # (B, heads*N, M)
            scores = scores.unflatten(1, k.shape[1:3]) + offset
        attention = scores.softmax(dim=2).flatten(1, 2).transpose(1, 2)  # (B, M, heads*N)
        values = self._to_channels(values, self.out_proj.weight.T)  # (B, heads*N, C)
        start = self.out_proj.bias if residual is None else residual + self.out_proj.bias.to(residual.dtype)
        return torch.baddbmm(start, attention, values)

    def _shared_scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, heads, N, M) of projected keys (B, heads, N, d) and images (G, M, C) that serve B/G of them each."""
        groups, num_prompts = len(q), len(k) // len(q)
        keys = k.unflatten(0, (groups, num_prompts)).transpose(1, 2).flatten(2, 3)  # (G, heads, B/G*N, d)
        scores = keys @ self._split_heads(self.q_proj(q)).transpose(2, 3)
        return scores.unflatten(2, (num_prompts, -1)).transpose(1, 2).flatten(0, 1)


def repeat_each(x: Tensor, batch: int) -> Tensor:
    """(G, …) -> (batch, …): each one as often as it serves; a view where G is 1 or `batch`."""
    return x[:, None].expand(-1, batch // len(x), *x.shape[1:]).flatten(0, 1)
