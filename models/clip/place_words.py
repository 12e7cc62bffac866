"""Brings a fresh text tower to given places of texts in closed form: each token pulls a text to a place of its own.

Which pulls fit the texts best is a linear problem. The tower's first attention then adds them up: its scores are the
logarithms of the pulls' lengths, its values their directions. What it makes of several words is the sum of what it
makes of each, so a "red ball" lies between red and ball before a step of training; later layers pass it on at first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.clip.model import Clip
from models.clip.tokenizer import ClipTokenizer
from models.clip.transformer import ResidualAttentionBlock

NUM_OTHERS = 8  # components of the text tower that no feature reads: six that balance the mean, two for the score
_SILENT = -12.0  # the logarithm of the pull of a token that no text has
_MAX_COMPONENT = 0.1  # of the score in an embedding, whose direction has length 1


def place_words(clip: Clip, tokenizer: ClipTokenizer, texts: Sequence[str], places: Tensor, ridge: float = 0.1) -> None:
    """Sets the weights of the text tower so that it gives each of `texts` about the direction of its row of `places`
    (T, embed_dim). Raises ValueError for a tower that is too narrow."""
    config = clip.config
    if config.text_width < config.embed_dim + NUM_OTHERS:
        raise ValueError(
            f"text_width: {config.text_width} is too narrow for words to be placed among {config.embed_dim} components "
            f"(embed_dim); use {config.embed_dim + NUM_OTHERS} or more"
        )
    pulls = _fit_pulls(tokenizer, texts, places, ridge)
    embeddings, sharpness = _embeddings(pulls, config.text_width)
    with torch.no_grad():
        clip.token_embedding.weight.copy_(embeddings)
        clip.positional_embedding.zero_()
        clip.text_projection.zero_()
        clip.text_projection[: config.embed_dim].fill_diagonal_(1.0)
        first, *others = clip.transformer.resblocks
        assert isinstance(first, ResidualAttentionBlock)
        _add_up(first, config.embed_dim, sharpness)
        for block in others:
            assert isinstance(block, ResidualAttentionBlock)
            nn.init.zeros_(block.attn.out_proj.weight)
        for block in clip.transformer.resblocks:
            assert isinstance(block, ResidualAttentionBlock)
            nn.init.zeros_(block.mlp.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.bias)


def _fit_pulls(tokenizer: ClipTokenizer, texts: Sequence[str], places: Tensor, ridge: float) -> Tensor:
    """(V, D): the pulls whose sums over the texts' tokens are the places, by least squares."""
    counts = torch.zeros(len(texts), tokenizer.vocab_size)
    for row, tokens in zip(counts, tokenizer.encode(texts), strict=True):
        row.index_add_(0, torch.tensor(tokens, dtype=torch.int64), torch.ones(len(tokens)))
    gram = counts.T @ counts + ridge * torch.eye(tokenizer.vocab_size)
    return torch.linalg.solve(gram, counts.T @ places)


def _embeddings(pulls: Tensor, width: int) -> tuple[Tensor, float]:
    """(V, width): a pull's direction, what brings the mean to 0, and the score of its length with its negative; and the
    factor of the score. The layer norm in between divides by the embedding's length, which the score makes up for."""
    lengths = pulls.norm(dim=1)
    silent = lengths < 1e-4
    directions = torch.where(silent[:, None], 0.0, pulls / lengths.clamp(min=1e-4)[:, None])
    found = torch.zeros(len(pulls), width)
    dim = pulls.shape[1]
    found[:, :dim] = directions
    found[:, dim : dim + 6] = -directions.sum(dim=1, keepdim=True) / 6
    found[silent, dim], found[silent, dim + 1] = 1.0, -1.0
    wanted = torch.where(silent, _SILENT, lengths.clamp(min=1e-4).log())
    component = torch.zeros(len(pulls))
    sharpness = float(wanted.abs().max()) / (_MAX_COMPONENT * width**0.5)
    for _ in range(20):
        found[:, dim + 6], found[:, dim + 7] = component, -component
        scale = (found.square().mean(dim=1) + 1e-5).rsqrt()
        component = (wanted - torch.where(silent, 0.0, scale.log() - 0.5 * torch.tensor(width).log())) / (
            sharpness * scale
        )
    return found, sharpness


def _add_up(block: ResidualAttentionBlock, dim: int, sharpness: float) -> None:
    """Every position's attention adds up the values of all before it, by their scores."""
    attention = block.attn
    width = attention.out_proj.weight.shape[0]
    head = width // attention.num_heads
    nn.init.zeros_(attention.in_proj_weight)
    nn.init.zeros_(attention.in_proj_bias)
    attention.in_proj_bias[:width:head] = sharpness * head**0.5
    attention.in_proj_weight[width : 2 * width : head, dim + 6] = 1.0
    attention.in_proj_weight[2 * width :].fill_diagonal_(1.0)
    nn.init.eye_(attention.out_proj.weight)
