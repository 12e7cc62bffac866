import math

import pytest
import torch
from torch import nn

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.training.muon import Muon
from models.training.optim import (
    OptimSettings,
    layer_of,
    learning_rate,
    make_optimizers,
    parameter_groups,
    set_learning_rate,
    update_average,
)


def test_the_deeper_in_the_encoder_the_smaller_the_rate() -> None:
    sam = build_sam(SAM_SIZES["debug"])  # two blocks
    settings = OptimSettings(layer_decay=0.5, weight_decay=0.1)
    groups = parameter_groups(sam.named_parameters(), 2, settings)
    found = {id(parameter): group for group in groups for parameter in group["params"]}  # type: ignore[attr-defined]
    named = dict(sam.named_parameters())
    assert len(found) == len(named), "each parameter is in one group"
    expected = {
        "image_encoder.patch_embed.proj.weight": (0.125, 0.1),
        "image_encoder.pos_embed": (0.125, 0.0),
        "image_encoder.blocks.0.attn.qkv.weight": (0.25, 0.1),
        "image_encoder.blocks.0.attn.rel_pos_h": (0.25, 0.0),
        "image_encoder.blocks.1.mlp.lin1.bias": (0.5, 0.0),
        "image_encoder.blocks.1.mlp.lin1.weight": (0.5, 0.1),
        "image_encoder.neck.0.weight": (1.0, 0.1),
        "mask_decoder.mask_tokens.weight": (1.0, 0.0),
        "prompt_encoder.point_embeddings.0.weight": (1.0, 0.0),
    }
    for name, (scale, decay) in expected.items():
        group = found[id(named[name])]
        assert (group["lr_scale"], group["weight_decay"]) == (scale, decay), name


def test_layers_by_name() -> None:
    assert layer_of("image_encoder.blocks.11.norm1.weight", 12) == 12
    assert layer_of("dense_head.bias", 12) == 13
    assert layer_of("image_encoder.trunk.blocks.3.attn.qkv.weight", 11) == 4
    assert layer_of("image_encoder.trunk.pos_embed_window", 11) == 0
    assert layer_of("image_encoder.neck.convs.0.conv.weight", 11) == 12


def test_warm_up_then_half_a_cosine() -> None:
    settings = OptimSettings(learning_rate=1.0, warmup_steps=10, final_share=0.1)
    assert learning_rate(0, 110, settings) == pytest.approx(0.1)
    assert learning_rate(9, 110, settings) == pytest.approx(1.0)
    assert learning_rate(60, 110, settings) == pytest.approx(0.55)
    assert learning_rate(35, 110, settings) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate(110, 110, settings) == pytest.approx(0.1)
    assert learning_rate(500, 110, settings) == pytest.approx(0.1)
    assert learning_rate(0, 5, OptimSettings(learning_rate=2.0, warmup_steps=0)) == 2.0


def test_each_group_gets_its_share_of_the_rate() -> None:
    sam = build_sam(SAM_SIZES["debug"])
    optimizers = make_optimizers(sam.named_parameters(), 2, OptimSettings(layer_decay=0.5))
    set_learning_rate(optimizers, 8.0)
    assert [{group["lr"] for group in one.param_groups} for one in optimizers] == [{1.0, 2.0, 4.0, 8.0}]


def test_muon_takes_the_matrices_inside_the_network_and_adamw_the_rest() -> None:
    sam = build_sam(SAM_SIZES["debug"])
    adamw, muon = make_optimizers(sam.named_parameters(), 2, OptimSettings(muon=True))
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, Muon)
    place = {id(p): one for one in (adamw, muon) for group in one.param_groups for p in group["params"]}
    named = dict(sam.named_parameters())
    assert len(place) == len(named), "each parameter is in one optimiser"
    for name, inside in {
        "image_encoder.blocks.0.attn.qkv.weight": True,
        "image_encoder.blocks.0.attn.qkv.bias": False,
        "image_encoder.blocks.0.attn.rel_pos_h": False,
        "image_encoder.blocks.1.mlp.lin1.weight": True,
        "mask_decoder.transformer.layers.0.self_attn.q_proj.weight": True,
        "mask_decoder.iou_prediction_head.layers.0.weight": False,
        "mask_decoder.mask_tokens.weight": False,
        "image_encoder.neck.0.weight": False,
    }.items():
        assert (place[id(named[name])] is muon) == inside, name


def test_the_average_follows_fast_at_first_and_slowly_later() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = {"weight": torch.zeros(1, 1)}
    update_average(average, model, 0.9, step=0)
    assert average["weight"].item() == pytest.approx(0.9)
    update_average(average, model, 0.9, step=1000)
    assert average["weight"].item() == pytest.approx(0.91)
