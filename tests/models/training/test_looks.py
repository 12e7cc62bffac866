import dataclasses

import pytest
import torch
import torch.nn.functional as F

from models.clip.build import build_clip
from models.clip.config import CLIP_SIZES
from models.clip.efficientnet_tower import POOLED_WIDTH
from models.clip.model import Clip
from models.training.looks import LabelledPools, LooksSettings, fit_looks
from models.training.optim import NonFiniteLossError

SETTINGS = LooksSettings(num_steps=60, masks_per_step=32, blanks_per_step=2, rows_per_step=8, learning_rate=0.01)


def pools() -> LabelledPools:
    """Two colours and two things, told by components of the levels; a third of the masks have no thing."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(6, (200,), generator=generator)
    pooled = 0.1 * torch.randn(200, 2, POOLED_WIDTH, generator=generator)
    pooled[torch.arange(200), :, -1 - kinds % 2] += 3
    pooled[torch.arange(200), :, -3 - kinds // 2] += 3
    words = ["red", "blue", "ball", "box", "nothing"]
    labels = {"colour": kinds % 2, "thing": torch.where(kinds // 2 < 2, 2 + kinds // 2, -1)}
    members = {"colour": torch.tensor([0, 1, 4]), "thing": torch.tensor([2, 3, 4])}
    rows = F.normalize(torch.randn(8, 16, generator=generator), dim=-1)
    return LabelledPools(pooled, torch.zeros(4, POOLED_WIDTH), words, labels, members, 4, rows, "thing")


def fresh() -> Clip:
    torch.manual_seed(0)
    clip = build_clip(dataclasses.replace(CLIP_SIZES["debug_efficientnet"], embed_dim=24, kinds_dim=16))
    return clip


def test_words_come_where_the_masks_are_and_only_looks_learn() -> None:
    clip, data = fresh(), pools()
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    places, accuracy = fit_looks(clip, data, SETTINGS, seed=0)
    changed = {name for name, value in clip.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"logit_scale", *(name for name in before if name.startswith("visual.looks."))}
    with torch.no_grad():
        features = clip.encode_pooled(data.pooled.flatten(0, 1)).unflatten(0, (200, 2)).mean(dim=1)
    colours = (features @ places[:2].T).argmax(dim=1)
    assert (colours == data.labels["colour"]).float().mean() > 0.95 and accuracy["colour"] > 0.8
    known = data.labels["thing"] >= 0
    things = 2 + (features @ places[2:4].T).argmax(dim=1)
    assert (things == data.labels["thing"])[known].float().mean() > 0.9


def test_it_is_a_function_of_the_seed() -> None:
    short = SETTINGS.model_copy(update={"num_steps": 3})
    one, same = (fit_looks(fresh(), pools(), short, seed=0)[0] for _ in range(2))
    assert torch.equal(one, same) and not torch.equal(one, fit_looks(fresh(), pools(), short, seed=1)[0])


def test_a_loss_that_is_no_number() -> None:
    data = pools()
    data.pooled[:] = float("nan")
    with pytest.raises(NonFiniteLossError, match="the loss of step 0 of the looks is nan"):
        fit_looks(fresh(), data, SETTINGS, seed=0)
