"""A captioner on CLIP features (Mokady et al. 2021, «ClipCap», arXiv:2111.09734), to be trained from scratch."""

import dataclasses
import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip.transformer import Transformer
from models.sizes import sizes_from_json


@dataclass(frozen=True)
class CaptionerConfig:
    """`embed_dim` and `vocab_size` are those of the CLIP whose features and tokenizer it takes. `context_length` counts
    tokens, start and end included; `prefix_length` positions before them hold the feature."""

    embed_dim: int = 128
    vocab_size: int = 1024
    context_length: int = 32
    prefix_length: int = 4
    width: int = 128
    num_heads: int = 4
    num_layers: int = 3

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "CaptionerConfig":
        """Reads what `to_json` writes. Raises ValueError as `sizes_from_json`."""
        return sizes_from_json(cls, text, "captioner")


class Captioner(nn.Module):
    """Predicts a text token by token, given a CLIP feature as its first positions."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        prefix = config.prefix_length * config.width
        self.mapping = nn.Sequential(
            nn.Linear(config.embed_dim, prefix // 2), nn.Tanh(), nn.Linear(prefix // 2, prefix)
        )
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        positions = config.prefix_length + config.context_length
        self.positional_embedding = nn.Parameter(nn.init.normal_(torch.empty(positions, config.width), std=0.01))
        self.transformer = Transformer(
            width=config.width,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            activation="gelu",
            causal=True,
        )
        self.ln_final = nn.LayerNorm(config.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """CLIP features (B, D) of unit length and the tokens so far (B, L) -> logits of each next one (B, L, V)."""
        prefix = self.mapping(features).unflatten(-1, (self.config.prefix_length, self.config.width))  # (B, P, W)
        x = torch.cat([prefix, self.token_embedding(tokens)], dim=1)
        x = self.transformer(x + self.positional_embedding[: x.shape[1]])
        x = self.ln_final(x[:, self.config.prefix_length :])
        return x @ self.token_embedding.weight.T


def caption_loss(captioner: Captioner, features: Tensor, tokens: Tensor, end_of_text: int) -> Tensor:
    """Mean cross-entropy of each token up to the end of text, given those before it; `tokens` (B, L) as the tokenizer
    makes them."""
    logits = captioner(features, tokens[:, :-1])
    targets = tokens[:, 1:]
    ended = (tokens == end_of_text).cumsum(dim=1)[:, :-1] > 0
    return F.cross_entropy(logits.flatten(0, 1), targets.masked_fill(ended, -1).flatten(), ignore_index=-1)
