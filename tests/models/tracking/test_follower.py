import cv2
import numpy as np
import pytest
import torch

from models.evaluation.video import region_similarity
from models.precision import Precision
from models.sam.model import Sam
from models.tracking.follower import FollowedMasks, Follower
from models.weights import load_sam


@pytest.fixture(scope="module")
def sam() -> Sam:
    return load_sam("sam_small")[0]


def disc(x: int) -> np.ndarray:
    mask = np.zeros((96, 160), np.uint8)
    cv2.circle(mask, (x, 48), 20, 1, -1)
    return mask.astype(bool)


def frame(x: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 30, (96, 160, 3)).astype(np.uint8)
    noise[disc(x)] = (220, 60, 40)
    return noise


def test_a_disc_is_followed(sam: Sam) -> None:
    xs = [40, 46, 52, 58, 64]
    follower = Follower(sam, [frame(x) for x in xs], 96, 160)
    follower.add_mask(0, 7, torch.from_numpy(disc(40)))
    found = list(follower.propagate())
    assert [(one.frame_index, one.object_ids) for one in found] == [(index, (7,)) for index in range(5)]
    for one, x in zip(found, xs, strict=True):
        mask = one.to_masks(96, 160)
        assert mask.shape == (1, 96, 160) and mask.dtype == torch.bool
        assert region_similarity(mask[0].numpy(), disc(x)) > 0.8
        assert one.object_scores.tolist() == [1.0]


def test_half_precision_roughly_agrees(sam: Sam) -> None:
    def scores(precision: Precision) -> list[float]:
        follower = Follower(sam, [frame(40), frame(46)], 96, 160, precision)
        follower.add_mask(0, 7, torch.from_numpy(disc(40)))
        return [float(one.logits.max()) for one in follower.propagate()]

    exact, rough = scores("fp32"), scores("fp16")
    assert exact != rough
    np.testing.assert_allclose(exact, rough, rtol=0.01)


def test_what_is_out_of_sight_has_no_mask() -> None:
    masks = FollowedMasks(3, (1, 2), torch.ones(2, 8, 8), torch.tensor([1.0, -1.0])).to_masks(16, 16)
    assert masks[0].all() and not masks[1].any()
