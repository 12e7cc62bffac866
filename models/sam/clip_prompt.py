"""Prompts a SAM with a CLIP embedding (a text's or an image crop's); appendix D.5 of the paper (arXiv:2304.02643).

The published checkpoints have no weights for this, so it keeps a state dict of its own.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ClipPrompt(nn.Module):
    """CLIP embeddings (B, K, clip_dim) or (B, clip_dim) -> sparse tokens (B, K, C) for `Prompts.embeddings`.

    The embeddings are brought to unit length, as text and image embeddings differ in theirs. The projection's bias is
    the type embedding that tells such a token from a point or a corner.
    """

    def __init__(self, clip_dim: int, prompt_embed_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(clip_dim, prompt_embed_dim)

    def forward(self, embeddings: Tensor) -> Tensor:
        if embeddings.ndim == 2:
            embeddings = embeddings[:, None]
        return self.projection(F.normalize(embeddings.to(self.projection.weight.dtype), dim=-1))
