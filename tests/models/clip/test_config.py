import dataclasses

import pytest
import torch

from models.clip.build import build_clip
from models.clip.checkpoints import infer_config
from models.clip.config import CLIP_SIZES, ClipConfig

# Known of the published models.
NUM_PARAMETERS = {
    "rn50": 102_007_137,
    "rn101": 119_688_033,
    "rn50x4": 178_300_601,
    "rn50x16": 290_979_217,
    "rn50x64": 623_258_305,
    "vit_b32": 151_277_313,
    "vit_b16": 149_620_737,
    "vit_l14": 427_616_513,
    "vit_l14_336": 427_944_193,
}


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        clip = build_clip(CLIP_SIZES[name])
    assert sum(parameter.numel() for parameter in clip.parameters()) == NUM_PARAMETERS[name]
    assert infer_config(clip.state_dict()) == CLIP_SIZES[name]


def test_a_size_for_every_published_model_and_three_for_tests() -> None:
    assert {*NUM_PARAMETERS, "debug", "debug_resnet", "debug_efficientnet"} == set(CLIP_SIZES)
    assert [name for name, config in CLIP_SIZES.items() if config.is_resnet] == [
        *(name for name in NUM_PARAMETERS if name.startswith("rn")),
        "debug_resnet",
    ]


@pytest.mark.parametrize("name", ["vit_l14_336", "rn50x4", "debug", "debug_efficientnet"])
def test_json_brings_sizes_back(name: str) -> None:
    config = dataclasses.replace(CLIP_SIZES[name], activation="gelu")
    assert ClipConfig.from_json(config.to_json()) == config
    assert ClipConfig.from_json("{}") == CLIP_SIZES["vit_b32"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "CLIP sizes: not JSON"),
        ("[]", "CLIP sizes: expected a JSON object, got list"),
        ('{"vision_head": 2}', "unknown key 'vision_head'; did you mean 'vision_heads'?"),
        ('{"embed_dim": "5"}', "embed_dim: '5' is not of type int"),
        ('{"embed_dim": true}', "embed_dim: True is not of type int"),
        ('{"activation": 1}', "activation: 1 is not of type str"),
        ('{"vision_layers": 12}', "vision_layers: 12 is not of type tuple"),
        ('{"vision_layers": [1, 2]}', "has 2 numbers; use one for a ViT, four for a ModifiedResNet"),
        ('{"activation": "relu"}', "activation: 'relu' is unknown; use one of quick_gelu, gelu"),
        ('{"image_size": 225}', r"image_size: 225 is not a positive multiple of patch_size \(32\)"),
        ('{"vision_heads": 5}', r"feature_width: 768 is not a positive multiple of vision_heads \(5\)"),
        ('{"text_heads": 0}', r"text_width: 512 is not a positive multiple of text_heads \(0\)"),
        ('{"vision_layers": [1, 1, 1, 1], "patch_size": 16}', "patch_size: 16 for a ModifiedResNet"),
        ('{"vision_layers": [1, 2, 2, 3, 3, 4, 1], "patch_size": 16}', "patch_size: 16 for EfficientNet-Lite0"),
        ('{"vision_layers": [1, 2, 2, 3, 3, 4, 1]}', r"kinds_dim: 0 of 512 \(embed_dim\) with looks_width 0"),
        ('{"vision_layers": [1, 2, 2, 3, 3, 4, 1], "kinds_dim": 512, "looks_width": 8}', "kinds_dim: 512 of 512"),
    ],
)
def test_sizes_that_make_no_model_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipConfig.from_json(text)
