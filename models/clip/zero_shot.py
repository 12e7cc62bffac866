"""CLIP as a classifier of classes that are given by name (arXiv:2103.00020, sections 3.1.2 and 3.1.4)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip.model import Clip
from models.clip.tokenizer import ClipTokenizer

# For crops around a mask: close, of any size, and often blurred or cut off.
TEMPLATES = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a drawing of a {}.",
)


@torch.no_grad()
def class_embeddings(
    clip: Clip,
    tokenizer: ClipTokenizer,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 256,
) -> Tensor:
    """One direction of unit length for each name: (len(names), D).

    Each name is put into each template; the texts' features are brought to unit length, averaged over the templates,
    and the mean is brought to unit length (prompt ensembling). `batch_size` is in texts and bounds the memory.
    Raises ValueError for no or empty names, for templates that do not have exactly one {}, and for a tokenizer whose
    vocabulary is not the model's.
    """
    check_templates(templates)
    if not names:
        raise ValueError("names: the list is empty; give at least one name")
    if blank := [index for index, name in enumerate(names) if not name.strip()]:
        raise ValueError(f"names: number {blank[0] + 1} of {len(names)} is empty; remove it")
    if tokenizer.vocab_size != clip.config.vocab_size:
        raise ValueError(
            f"tokenizer: its vocabulary has {tokenizer.vocab_size} tokens, the model's {clip.config.vocab_size}; "
            "use the vocabulary that the model was trained with"
        )
    names_a_batch = max(1, batch_size // len(templates))
    means = []
    for start in range(0, len(names), names_a_batch):
        batch = names[start : start + names_a_batch]
        texts = [template.replace("{}", name) for name in batch for template in templates]
        features = F.normalize(clip.encode_text(tokenizer(texts).to(clip.device)).float(), dim=-1)
        means.append(features.unflatten(0, (len(batch), len(templates))).mean(dim=1))
    return F.normalize(torch.cat(means), dim=-1)


def check_templates(templates: Sequence[str]) -> None:
    """Raises ValueError unless there is a template and each has one {}, and no other braces."""
    if not templates:
        raise ValueError('templates: the list is empty; give at least one, such as "a photo of a {}."')
    for template in templates:
        rest = template.replace("{}", "", 1)
        if rest == template or "{" in rest or "}" in rest:
            raise ValueError(
                f"templates: {template!r} must have exactly one {{}}, where the name goes, and no other braces"
            )
