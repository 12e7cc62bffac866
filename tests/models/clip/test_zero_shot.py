from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from models.clip.config import CLIP_SIZES, ClipConfig
from models.clip.model import Clip
from models.clip.tokenizer import ClipTokenizer
from models.clip.zero_shot import TEMPLATES, check_templates, class_embeddings

MakeClip = Callable[[ClipConfig], Clip]
DEBUG = CLIP_SIZES["debug"]


@pytest.fixture
def clip(make_clip: MakeClip) -> Clip:
    return make_clip(DEBUG)


@pytest.fixture
def tokenizer(merges: str) -> ClipTokenizer:
    return ClipTokenizer.from_merges(merges, context_length=DEBUG.context_length)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_normalised_mean_of_normalised_embeddings(clip: Clip, tokenizer: ClipTokenizer, batch_size: int) -> None:
    names, templates = ["red ball", "the car", "été"], ["a {}", "{} !"]
    found = class_embeddings(clip, tokenizer, names, templates, batch_size=batch_size)
    for row, name in zip(found, names, strict=True):
        first, second = (clip.encode_text(tokenizer([text]))[0] for text in (f"a {name}", f"{name} !"))
        assert not torch.allclose(first.norm(), second.norm(), rtol=0.01)  # or normalising would not show
        mean = first / first.norm() + second / second.norm()
        assert torch.allclose(row, mean / mean.norm(), atol=1e-5)
    assert not found.requires_grad


def test_the_nearest_class_wins(clip: Clip, tokenizer: ClipTokenizer) -> None:
    classes = class_embeddings(clip, tokenizer, ["red", "ball", "car"])
    assert classes.shape == (3, DEBUG.embed_dim)
    assert torch.allclose(classes.norm(dim=1), torch.ones(3))
    noisy = 7 * classes + 0.1 * torch.randn(3, DEBUG.embed_dim, generator=torch.Generator().manual_seed(0))
    logits = clip.logits(noisy, classes)
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]
    assert torch.allclose(logits, F.cosine_similarity(noisy[:, None], classes[None], dim=-1) / 0.07, atol=1e-4)


def test_names_may_repeat_be_long_or_have_braces(clip: Clip, tokenizer: ClipTokenizer) -> None:
    found = class_embeddings(clip, tokenizer, ["ball", "ball", "red " * 500, "{x} {}"], ["{}"])
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], TEMPLATES, "names: the list is empty"),
        (["ball", " "], TEMPLATES, "names: number 2 of 2 is empty"),
        (["ball"], [], "templates: the list is empty"),
        (["ball"], ["a photo"], "templates: 'a photo' must have exactly one {}"),
        (["ball"], ["a {name}"], "templates: 'a {name}' must have exactly one {}"),
        (["ball"], ["{} and {}"], "templates: '{} and {}' must have exactly one {}"),
    ],
)
def test_bad_lists_are_refused(
    clip: Clip, tokenizer: ClipTokenizer, names: list[str], templates: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        class_embeddings(clip, tokenizer, names, templates)


def test_a_vocabulary_of_another_model_is_refused(clip: Clip) -> None:
    with pytest.raises(ValueError, match="its vocabulary has 515 tokens, the model's 520"):
        class_embeddings(clip, ClipTokenizer.from_merges("a b\n", 16), ["ball"])


def test_the_templates_that_ship_are_in_order() -> None:
    check_templates(TEMPLATES)
    assert len(set(TEMPLATES)) == len(TEMPLATES)
