import dataclasses
import re

import pytest
import torch
from torch import Tensor
from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel

from models.sam2.config import HIERA_SIZES, HieraConfig
from models.sam2.image_encoder import ImageEncoder, sine_positions


def reference(config: HieraConfig) -> Sam2VisionModel:
    dims = [config.embed_dim << stage for stage in range(4)]
    trunk = Sam2HieraDetConfig(
        hidden_size=config.embed_dim,
        num_attention_heads=config.num_heads,
        image_size=[config.image_size] * 2,
        blocks_per_stage=list(config.stage_depths),
        embed_dim_per_stage=dims,
        num_attention_heads_per_stage=[config.num_heads << stage for stage in range(4)],
        window_size_per_stage=list(config.window_sizes),
        global_attention_blocks=list(config.global_attn_indexes),
        window_positional_embedding_background_size=[config.position_grid_size] * 2,
    )
    vision = Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=dims[::-1], fpn_hidden_size=config.neck_dim)
    return Sam2VisionModel(vision).eval().requires_grad_(False)


def to_published(name: str) -> str:
    name = name.replace("backbone.", "trunk.").replace("patch_embed.projection", "patch_embed.proj")
    name = name.replace("layer_norm", "norm").replace("mlp.proj_in", "mlp.layers.0")
    return re.sub(r"neck\.convs\.(\d+)", r"neck.convs.\1.conv", name.replace("mlp.proj_out", "mlp.layers.1"))


def random_state(model: torch.nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator) * (0.3 if value.ndim == 1 else value[0].numel() ** -0.5)
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("embed_dim, num_heads", [(16, 1), (24, 2)])
def test_the_encoder_gives_the_features_of_transformers(embed_dim: int, num_heads: int) -> None:
    config = dataclasses.replace(HIERA_SIZES["debug"], embed_dim=embed_dim, num_heads=num_heads)
    theirs, ours = reference(config), ImageEncoder(config).eval().requires_grad_(False)
    state = random_state(theirs)
    theirs.load_state_dict(state)
    ours.load_state_dict({to_published(name): value for name, value in state.items()}, strict=True)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    expected, got = theirs(pixels), ours(pixels)

    assert [tuple(x.shape) for x in got.features] == [(2, 32, 16, 16), (2, 32, 8, 8), (2, 32, 4, 4)]
    for ours_level, theirs_level in zip(got.features, expected.fpn_hidden_states, strict=True):
        assert theirs_level.std() > 0.1
        torch.testing.assert_close(ours_level, theirs_level, rtol=0, atol=1e-4)
    for ours_level, theirs_level in zip(got.positions, expected.fpn_position_encoding, strict=True):
        torch.testing.assert_close(ours_level, theirs_level[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["hiera_tiny", "hiera_small", "hiera_base_plus", "hiera_large"])
def test_published_sizes_have_the_parameters_of_transformers(size: str) -> None:
    with torch.device("meta"):
        theirs, ours = reference(HIERA_SIZES[size]), ImageEncoder(HIERA_SIZES[size])
    expected = {to_published(name): value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == expected


def test_sine_positions_of_one_cell() -> None:
    # One cell lies at 2 pi, where (up to the published 1e-6) sine is 0 and cosine 1.
    positions = sine_positions(4, 1, 1, torch.zeros(1))
    torch.testing.assert_close(positions.flatten(), torch.tensor([0.0, 1.0, 0.0, 1.0]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"window_sizes": (8, 4)}, "window_sizes"),
        ({"image_size": 72}, "image_size: 72"),
        ({"image_size": 0}, "image_size: 0"),
        ({"window_sizes": (8, 4, 7, 2)}, "window_sizes: 7"),
        ({"num_heads": 3}, "embed_dim: 16"),
        ({"neck_dim": 30}, "neck_dim: 30"),
        ({"global_attn_indexes": (8,)}, "global_attn_indexes: 8"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(HIERA_SIZES["debug"], **changes)
