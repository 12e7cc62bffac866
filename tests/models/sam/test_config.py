import dataclasses

import pytest
import torch

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES, SamConfig


@pytest.mark.parametrize("name", SAM_SIZES)
def test_sizes_survive_json(name: str) -> None:
    assert SamConfig.from_json(SAM_SIZES[name].to_json()) == SAM_SIZES[name]


def test_json_with_few_keys_takes_the_defaults_for_the_rest() -> None:
    config = SamConfig.from_json('{"encoder_depth": 2, "encoder_global_attn_indexes": [1], "mask_threshold": 1}')
    assert config == SamConfig(encoder_depth=2, encoder_global_attn_indexes=(1,), mask_threshold=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"encoder_dept": 2}', "unknown key 'encoder_dept'; did you mean 'encoder_depth'"),
        ('{"encoder_depth": 2.5}', "encoder_depth: 2.5 is not of type int"),
        ('{"encoder_depth": true}', "encoder_depth: True is not of type int"),
        ('{"pixel_mean": ["a", 1, 2]}', "pixel_mean: 'a' is not of type float"),
        ('{"pixel_mean": 3}', "pixel_mean: 3 is not of type tuple"),
        ('{"encoder_depth": ', "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"image_size": 100}', "image_size: 100 is not a positive multiple of patch_size"),
        ('{"image_size": 0}', "image_size: 0 is not a positive multiple of patch_size"),
        ('{"encoder_num_heads": 7}', "encoder_embed_dim: 1280 is not a positive multiple of encoder_num_heads"),
        ('{"decoder_num_heads": 5}', "prompt_embed_dim: 256 is not a positive multiple of twice decoder_num_heads"),
        ('{"encoder_depth": 8}', "encoder_global_attn_indexes: 15 is not a block"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        SamConfig.from_json(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "millions"),
    # Parameter counts that segment-anything's README gives for its checkpoints.
    [("vit_b", 91), ("vit_l", 308), ("vit_h", 636)],
)
def test_published_sizes_have_the_published_number_of_parameters(name: str, millions: int) -> None:
    with torch.device("meta"):
        sam = build_sam(SAM_SIZES[name])
    assert sum(parameter.numel() for parameter in sam.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


def test_embedding_size_follows_the_input() -> None:
    assert SamConfig().embedding_size == 64
    assert dataclasses.replace(SamConfig(), image_size=512).embedding_size == 32
