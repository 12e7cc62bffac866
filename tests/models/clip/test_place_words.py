import dataclasses

import pytest
import torch
import torch.nn.functional as F

from models.clip.build import build_clip
from models.clip.config import CLIP_SIZES
from models.clip.learn_bpe import learn_merges
from models.clip.model import Clip
from models.clip.place_words import place_words
from models.clip.tokenizer import ClipTokenizer

NOUNS = ["ball", "golden retriever", "Labrador retriever", "teapot", "sports car"]
COLOURS = ["red", "green", "blue"]
TEMPLATES = ["{}", "a {}", "a photo of a {}."]


def fresh(text_width: int = 32, text_layers: int = 2) -> tuple[Clip, ClipTokenizer]:
    texts = [template.replace("{}", word) for word in NOUNS + COLOURS for template in TEMPLATES]
    tokenizer = ClipTokenizer.from_merges(learn_merges(texts, 600), 16)
    config = dataclasses.replace(
        CLIP_SIZES["debug"],
        embed_dim=16,
        vocab_size=tokenizer.vocab_size,
        text_width=text_width,
        text_layers=text_layers,
    )
    torch.manual_seed(0)
    return build_clip(config), tokenizer


@pytest.mark.parametrize("text_layers", [1, 3])
def test_texts_come_to_their_places_in_every_template(text_layers: int) -> None:
    clip, tokenizer = fresh(text_layers=text_layers)
    places = F.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    texts = [template.replace("{}", word) for word in NOUNS + COLOURS for template in TEMPLATES]
    place_words(clip, tokenizer, texts, places.repeat_interleave(3, dim=0), ridge=0.01)
    with torch.no_grad():
        features = F.normalize(clip.encode_text(tokenizer(texts)), dim=-1)
    cosines = features @ places.T
    assert cosines.argmax(dim=1).tolist() == [index for index in range(8) for _ in TEMPLATES]
    assert cosines.gather(1, torch.arange(8).repeat_interleave(3)[:, None]).min() > 0.9


def test_two_words_lie_between_both() -> None:
    clip, tokenizer = fresh()
    places = torch.eye(16)[:8]
    place_words(clip, tokenizer, NOUNS + COLOURS, places, ridge=0.01)
    with torch.no_grad():
        [feature] = F.normalize(clip.encode_text(tokenizer(["red ball"])), dim=-1)
    assert feature.topk(2).indices.sort().values.tolist() == [NOUNS.index("ball"), 5 + COLOURS.index("red")]
    assert feature[0] > 0.5 and feature[5] > 0.5


def test_the_tower_goes_on_learning() -> None:
    clip, tokenizer = fresh()
    place_words(clip, tokenizer, NOUNS, torch.eye(16)[:5])
    clip.encode_text(tokenizer(["red ball"])).square().sum().backward()
    gradients = {name: value.grad for name, value in clip.named_parameters() if name.startswith("transformer")}
    moved = [name for name, grad in gradients.items() if grad is not None and grad.abs().sum() > 0]
    assert any("mlp.c_proj" in name for name in moved) and any("out_proj" in name for name in moved)


def test_a_tower_that_is_too_narrow() -> None:
    clip, tokenizer = fresh(text_width=20)
    with pytest.raises(ValueError, match=r"text_width: 20 is too narrow .* \(embed_dim\); use 24 or more"):
        place_words(clip, tokenizer, NOUNS, torch.eye(16)[:5])
