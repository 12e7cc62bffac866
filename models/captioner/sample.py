"""Texts from a captioner: nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751)."""

import torch
from torch import Tensor

from models.captioner.model import Captioner


@torch.inference_mode()
def sample_captions(
    captioner: Captioner,
    features: Tensor,
    draws: Tensor,
    start_of_text: int,
    end_of_text: int,
    top_p: float,
    temperature: float,
) -> list[list[int]]:
    """One text for each feature (B, D): its token ids without start and end.

    `draws` (B, L), uniform in 0..1, decide each text's tokens, so that a text does not depend on the batch it is
    sampled in; L at most context_length - 2 bounds its length. Of each step's tokens the likeliest ones take part that
    together reach the probability `top_p`; a `temperature` of 0 always takes the likeliest.
    """
    num_texts, max_tokens = draws.shape
    tokens = torch.full((num_texts, 1), start_of_text, device=features.device)
    ended = torch.zeros(num_texts, dtype=torch.bool, device=features.device)
    for step in range(max_tokens):
        logits = captioner(features, tokens)[:, -1].float()
        logits[:, start_of_text] = -torch.inf
        if temperature == 0:
            chosen = logits.argmax(dim=-1)
        else:
            chosen = _draw((logits / temperature).softmax(dim=-1), draws[:, step].to(features.device), top_p)
        chosen = chosen.masked_fill(ended, end_of_text)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        ended |= chosen == end_of_text
        if ended.all():
            break
    return [row[: row.index(end_of_text)] if end_of_text in row else row for row in tokens[:, 1:].tolist()]


def _draw(shares: Tensor, draw: Tensor, top_p: float) -> Tensor:
    """A token of each row's nucleus: probabilities (B, V), draws (B,) -> (B,)."""
    ordered, order = shares.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0)
    total = kept.cumsum(dim=-1)
    place = torch.searchsorted(total, draw[:, None] * total[:, -1:], right=True).clamp(max=shares.shape[1] - 1)
    return order.gather(1, place)[:, 0]
