import pytest
import torch

from models.clip.build import build_clip
from models.clip.config import CLIP_SIZES
from models.training.clip_trainer import ClipTrainer, ClipTrainerSettings
from models.training.muon import Muon
from models.training.optim import OptimSettings


@pytest.mark.parametrize(
    ("size", "places"),
    [
        (
            "debug_resnet",
            {
                "visual.conv1.weight": True,
                "visual.layer1.0.conv2.weight": True,
                "visual.layer1.0.bn2.weight": False,
                "visual.attnpool.q_proj.weight": False,
                "transformer.resblocks.0.mlp.c_fc.weight": True,
                "transformer.resblocks.0.mlp.c_fc.bias": False,
                "token_embedding.weight": False,
                "logit_scale": False,
            },
        ),
        (
            "debug",
            {
                "visual.conv1.weight": False,
                "visual.transformer.resblocks.1.attn.in_proj_weight": True,
                "transformer.resblocks.1.attn.out_proj.weight": True,
                "positional_embedding": False,
                "text_projection": False,
            },
        ),
    ],
)
def test_muon_takes_kernels_and_the_matrices_of_blocks_and_adamw_the_rest(size: str, places: dict[str, bool]) -> None:
    clip = build_clip(CLIP_SIZES[size])
    settings = ClipTrainerSettings(num_steps=1, optim=OptimSettings(muon=True))
    adamw, muon = ClipTrainer(clip, settings).optimizers
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, Muon)
    place = {id(p): one for one in (adamw, muon) for group in one.param_groups for p in group["params"]}
    named = dict(clip.named_parameters())
    assert len(place) == len(named), "each parameter is in one optimiser"
    for name, inside in places.items():
        assert (place[id(named[name])] is muon) == inside, name


def test_without_muon_there_is_one_optimiser() -> None:
    clip = build_clip(CLIP_SIZES["debug_resnet"])
    [adamw] = ClipTrainer(clip, ClipTrainerSettings(num_steps=1)).optimizers
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(dict(clip.named_parameters()))
