import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from models.clip.build import build_clip
from models.clip.config import CLIP_SIZES, ClipConfig
from models.clip.model import Clip
from models.clip.positions import interpolate_positions
from models.clip.preprocess import preprocess_image
from models.clip.transformer import QuickGELU

MakeClip = Callable[[ClipConfig], Clip]
DEBUG = CLIP_SIZES["debug"]
START, END = DEBUG.vocab_size - 2, DEBUG.vocab_size - 1


def test_quick_gelu() -> None:
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    expected = [value / (1 + math.exp(-1.702 * value)) for value in x.tolist()]
    assert QuickGELU()(x).tolist() == pytest.approx(expected, rel=1e-6)


def test_what_follows_the_end_of_text_does_not_matter(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    short = torch.tensor([[START, 5, 9, END]])
    padded = F.pad(short, (0, DEBUG.context_length - 4))
    littered = padded.clone()
    littered[0, 4:] = torch.randint(0, END, (DEBUG.context_length - 4,))
    ended = F.pad(short, (0, DEBUG.context_length - 4), value=END)  # as transformers pads
    longer = torch.cat([padded, torch.full_like(padded, 7).index_fill_(1, torch.tensor([15]), END)])
    expected = clip.encode_text(short)[0]
    for tokens in (padded, littered, ended, longer):
        assert torch.allclose(clip.encode_text(tokens)[0], expected, atol=1e-5)
    assert not torch.allclose(clip.encode_text(torch.tensor([[START, 5, 8, END]]))[0], expected, atol=1e-2)


def test_nothing_to_encode(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    assert clip.encode_text(torch.zeros(0, 16, dtype=torch.int64)).shape == (0, DEBUG.embed_dim)
    assert clip.encode_image(torch.zeros(0, 3, 64, 64)).shape == (0, DEBUG.embed_dim)


def test_inputs_that_do_not_fit_are_refused(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    with pytest.raises(ValueError, match=r"tokens: 17 a text exceed context_length \(16\)"):
        clip.encode_text(torch.zeros(1, 17, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"images: 60 x 64 pixels are not positive multiples of patch_size \(16\)"):
        clip.encode_image(torch.zeros(1, 3, 64, 60))
    with pytest.raises(ValueError, match="only a ModifiedResNet has mask-pooled features"):
        clip.encode_regions(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 4, 4))


def test_logits_are_scaled_cosines(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    logits = clip.logits(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, 0.0]]))
    assert torch.allclose(logits, torch.tensor([[0.6, 0.8, -0.6], [0.0, 1.0, 0.0]]) / 0.07)


def test_the_scale_is_learned_and_capped() -> None:
    clip = build_clip(DEBUG)
    assert clip.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    clip.logit_scale.data.fill_(9.0)
    clip.cap_logit_scale()
    assert clip.logit_scale.exp().item() == pytest.approx(100.0)
    assert clip.logit_scale.requires_grad
    clip.logit_scale.data.fill_(-1.0)
    clip.cap_logit_scale()
    assert clip.logit_scale.item() == -1.0


@pytest.mark.parametrize("name", ["debug", "debug_resnet"])
def test_every_parameter_of_a_fresh_model_learns(name: str) -> None:
    torch.manual_seed(0)
    clip = build_clip(CLIP_SIZES[name])
    size = clip.config.image_size
    tokens = torch.tensor([[START, 5, END], [START, 8, END]])
    # Blocks of a fresh ResNet pass their input on: two steps are needed until all of it has a gradient.
    optimizer = torch.optim.SGD(clip.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(clip(torch.randn(2, 3, size, size), tokens), torch.arange(2)).backward()
        optimizer.step()
    idle = [name for name, one in clip.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    # The bias of keys moves all scores of a query alike, which softmax ignores: rounding alone gives it a gradient, and
    # the pool of a ResNet does not read it.
    assert [name for name in idle if "k_proj.bias" not in name] == []


@pytest.mark.parametrize("name", ["debug", "debug_resnet"])
def test_half_precision(make_clip: MakeClip, name: str) -> None:
    clip = make_clip(CLIP_SIZES[name])
    size = clip.config.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[START, 5, END]])
    expected = clip.encode_image(images), clip.encode_text(tokens)
    clip = clip.bfloat16()
    found = clip.encode_image(images), clip.encode_text(tokens)
    for half, full in zip(found, expected, strict=True):
        assert half.dtype == torch.bfloat16
        assert F.cosine_similarity(half.float(), full).min() > 0.99


def test_positions_of_another_grid() -> None:
    """A ramp along the rows stays a ramp, away from the border; the first position is left alone."""
    ramp = torch.arange(8.0)[:, None].expand(8, 8).reshape(64, 1)
    table = torch.cat([torch.tensor([[42.0]]), ramp])
    wide = interpolate_positions(table, 16, 8)
    assert wide[0].item() == 42.0
    rows = wide[1:].view(16, 8)
    assert torch.allclose(rows[:, :1].expand(16, 8), rows, atol=1e-5)
    assert torch.allclose(rows[4:12, 0], torch.arange(4, 12) / 2 - 0.25, atol=0.1)
    assert interpolate_positions(table, 8, 8) is table
    assert interpolate_positions(table, 1, 1).shape == (2, 1)


def test_one_pixel_becomes_a_feature(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    image = torch.full((1, 1, 3), 200, dtype=torch.uint8).numpy()
    assert clip.encode_image(preprocess_image(image, DEBUG)[None]).isfinite().all()
