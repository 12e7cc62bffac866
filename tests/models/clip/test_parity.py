"""Against an independent implementation: `transformers.CLIPModel` with the same random weights."""

import dataclasses
import time
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn

from models.clip.build import build_clip
from models.clip.checkpoints import official_layout
from models.clip.config import CLIP_SIZES, ClipConfig
from models.clip.contrastive import contrastive_loss
from models.clip.model import Clip

TOLERANCE = 1e-4
DEBUG = CLIP_SIZES["debug"]
Pair = tuple[Clip, transformers.CLIPModel]


def make_pair(config: ClipConfig, randomize: Callable[[nn.Module], None]) -> Pair:
    reference = transformers.CLIPModel(
        transformers.CLIPConfig(
            projection_dim=config.embed_dim,
            text_config={
                "hidden_size": config.text_width,
                "intermediate_size": 4 * config.text_width,
                "num_hidden_layers": config.text_layers,
                "num_attention_heads": config.text_heads,
                "max_position_embeddings": config.context_length,
                "vocab_size": config.vocab_size,
                "hidden_act": config.activation,
                "bos_token_id": config.vocab_size - 2,
                "eos_token_id": config.vocab_size - 1,
                "pad_token_id": 0,
            },
            vision_config={
                "hidden_size": config.vision_width,
                "intermediate_size": 4 * config.vision_width,
                "num_hidden_layers": config.vision_layers[0],
                "num_attention_heads": config.vision_heads,
                "image_size": config.image_size,
                "patch_size": config.patch_size,
                "hidden_act": config.activation,
            },
        )
    )
    reference = reference.eval().requires_grad_(False)
    randomize(reference)
    clip = build_clip(config).eval().requires_grad_(False)
    clip.load_state_dict(official_layout(reference.state_dict()), strict=True)
    return clip, reference


@pytest.fixture(
    params=[
        DEBUG,
        dataclasses.replace(DEBUG, activation="gelu"),
        dataclasses.replace(DEBUG, image_size=40, patch_size=8, context_length=9, text_heads=4, vision_layers=(3,)),
    ],
    ids=["quick gelu", "gelu", "other sizes"],
)
def pair(request: pytest.FixtureRequest, randomized: Callable[[nn.Module], None]) -> Pair:
    return make_pair(request.param, randomized)


def token_ids(config: ClipConfig) -> Tensor:
    """Texts of every length that fits, from none on, padded with zeros."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(config.context_length - 1, config.context_length, dtype=torch.int64)
    for num_tokens, row in enumerate(tokens):
        row[0] = config.vocab_size - 2
        row[1 : num_tokens + 1] = torch.randint(1, config.vocab_size - 2, (num_tokens,), generator=generator)
        row[num_tokens + 1] = config.vocab_size - 1
    return tokens


def images_of(config: ClipConfig, num_images: int) -> Tensor:
    size = config.image_size
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(2))


def largest_differences(clip: Clip, reference: transformers.CLIPModel, num_images: int) -> dict[str, float]:
    images = images_of(clip.config, num_images)
    tokens = token_ids(clip.config)[:: 1 + clip.config.context_length // 20]
    expected = reference(input_ids=tokens, pixel_values=images)
    expected_images = reference.get_image_features(pixel_values=images).pooler_output
    expected_texts = reference.get_text_features(input_ids=tokens).pooler_output
    for features in (expected_images, expected_texts):
        assert features.std(dim=0).mean() > 0.05, "the reference is too flat to compare with"
    return {
        name: float((ours - theirs).abs().max())
        for name, ours, theirs in [
            ("image features", clip.encode_image(images), expected_images),
            ("text features", clip.encode_text(tokens), expected_texts),
            ("logits", clip(images, tokens), expected.logits_per_image),
        ]
    }


def test_features_and_logits(pair: Pair) -> None:
    found = largest_differences(*pair, num_images=5)
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("cells", [(6, 6), (2, 3), (5, 1)])
def test_other_input_sizes(pair: Pair, cells: tuple[int, int]) -> None:
    clip, reference = pair
    height, width = (clip.config.patch_size * number for number in cells)
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    expected = reference.get_image_features(pixel_values=images, interpolate_pos_encoding=True).pooler_output
    assert (clip.encode_image(images) - expected).abs().max() <= TOLERANCE


def test_the_loss(pair: Pair) -> None:
    clip, reference = pair
    tokens = token_ids(clip.config)[-5:]
    images = images_of(clip.config, len(tokens))
    expected = reference(input_ids=tokens, pixel_values=images, return_loss=True).loss
    loss = contrastive_loss(clip.encode_image(images), clip.encode_text(tokens), clip.logit_scale)
    assert float(loss) == pytest.approx(float(expected), abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b32"])
def test_at_its_published_size(name: str, randomized: Callable[[nn.Module], None]) -> None:
    clip, reference = make_pair(CLIP_SIZES[name], randomized)
    start = time.monotonic()
    found = largest_differences(clip, reference, num_images=2)
    print(f"{name}: largest difference {max(found.values()):.1e} in {time.monotonic() - start:.0f} s: {found}")
    assert max(found.values()) <= TOLERANCE, found
