"""Against an independent implementation in functional calls, written from the published names, and by hand."""

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip.attention_pool import AttentionPool2d
from models.clip.config import CLIP_SIZES, ClipConfig
from models.clip.model import Clip
from models.clip.resnet import Bottleneck, ModifiedResNet, fold_batch_norms

MakeClip = Callable[[ClipConfig], Clip]
DEBUG = CLIP_SIZES["debug_resnet"]
TOLERANCE = 1e-4


def reference_features(weights: dict[str, Tensor], config: ClipConfig, images: Tensor) -> tuple[Tensor, Tensor]:
    """The feature map and the pooled features of official weights."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernel = weights[f"visual.{conv}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, variance, weight, bias = (
            weights[f"visual.{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=1e-5)

    x = images
    for index in (1, 2, 3):
        x = conv_norm(x, f"conv{index}", f"bn{index}", stride=2 if index == 1 else 1).clamp(min=0)
    x = F.avg_pool2d(x, 2)
    for stage, num_blocks in enumerate(config.vision_layers, start=1):
        for block in range(num_blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            inner = conv_norm(x, f"{name}.conv1", f"{name}.bn1").clamp(min=0)
            inner = conv_norm(inner, f"{name}.conv2", f"{name}.bn2").clamp(min=0)
            inner = conv_norm(F.avg_pool2d(inner, stride), f"{name}.conv3", f"{name}.bn3")
            if block == 0:
                x = conv_norm(F.avg_pool2d(x, stride), f"{name}.downsample.0", f"{name}.downsample.1")
            x = (x + inner).clamp(min=0)
    return x, reference_pool({key.removeprefix("visual.attnpool."): w for key, w in weights.items()}, config, x)


def reference_pool(weights: dict[str, Tensor], config: ClipConfig, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Attention pooling of (B, C, h, w) by torch's own attention; `keep` (h * w) names the cells of a region."""
    cells = x.flatten(2).permute(2, 0, 1)  # (N, B, C)
    keep = torch.ones(len(cells), dtype=torch.bool) if keep is None else keep
    tokens = torch.cat([cells[keep].mean(dim=0, keepdim=True), cells]) + weights["positional_embedding"][:, None]
    pooled, _ = F.multi_head_attention_forward(
        tokens[:1],
        tokens,
        tokens,
        embed_dim_to_check=tokens.shape[-1],
        num_heads=config.vision_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([weights[f"{part}_proj.bias"] for part in "qkv"]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=weights["c_proj.weight"],
        out_proj_bias=weights["c_proj.bias"],
        need_weights=False,
        attn_mask=~torch.cat([torch.ones(1, dtype=torch.bool), keep])[None],
        use_separate_proj_weight=True,
        q_proj_weight=weights["q_proj.weight"],
        k_proj_weight=weights["k_proj.weight"],
        v_proj_weight=weights["v_proj.weight"],
    )
    return pooled[0]


def images_of(config: ClipConfig, num_images: int) -> Tensor:
    """Bold blotches: the mean that the attention pool starts from would wash out fine noise."""
    coarse = torch.randn(num_images, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return F.interpolate(30 * coarse, size=(config.image_size, config.image_size), mode="bilinear")


def tower_of(clip: Clip) -> ModifiedResNet:
    assert isinstance(clip.visual, ModifiedResNet)
    return clip.visual


def test_the_whole_tower(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    images = images_of(DEBUG, 3)
    expected_map, expected = reference_features(clip.state_dict(), DEBUG, images)
    assert expected.std(dim=0).min() > 0.01, "the reference is too flat to compare with"
    feature_map = tower_of(clip).feature_map(images)
    assert feature_map.shape == (3, 32 * DEBUG.vision_width, 3, 3)
    assert (feature_map - expected_map).abs().max() <= TOLERANCE
    assert (clip.encode_image(images) - expected).abs().max() <= TOLERANCE


def test_a_tower_without_batch_norms_gives_the_same(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    images = images_of(DEBUG, 3)
    expected = clip.encode_image(images)
    fold_batch_norms(tower_of(clip))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in clip.modules())
    assert (clip.encode_image(images) - expected).abs().max() <= TOLERANCE


def test_strides_do_not_alias() -> None:
    """A checkerboard is of the highest frequency there is: an average is its mean, a stride would take one colour."""
    block = Bottleneck(4, 2, stride=2).eval().requires_grad_(False)  # fresh: the shortcut alone is passed on
    assert isinstance(block.downsample, torch.nn.Sequential)
    torch.nn.init.ones_(block.downsample[0].weight)
    row, column = torch.arange(8)[:, None], torch.arange(8)
    board = 1.0 + (-1.0) ** (row + column)  # 2, 0, 2, 0 …
    out = block(board.expand(1, 4, 8, 8))
    assert out.shape == (1, 8, 4, 4)
    assert torch.allclose(out, torch.full_like(out, 4.0 / (1 + 1e-5) ** 0.5))  # four channels of mean 1


def test_a_fresh_block_without_stride_passes_its_input_on() -> None:
    block = Bottleneck(8, 2, stride=1).eval()
    x = torch.rand(1, 8, 5, 5)
    assert torch.equal(block(x), x)


def test_attention_pool_by_hand() -> None:
    """Width 1, so that a weight is a number: tokens 3 (the mean), 1 and 5; the query is the mean."""
    pool = AttentionPool2d(grid_size=1, width=1, num_heads=1, embed_dim=1).requires_grad_(False)
    for projection, weight, bias in [(pool.q_proj, 0.5, 0.0), (pool.k_proj, 2.0, 1.0), (pool.v_proj, 1.0, 0.0)]:
        projection.weight.fill_(weight)
        projection.bias.fill_(bias)
    pool.c_proj.weight.fill_(10.0)
    pool.c_proj.bias.fill_(0.5)
    pool.positional_embedding.zero_()
    scores = 1.5 * torch.tensor([7.0, 3.0, 11.0])
    expected = 10 * (scores.softmax(0) * torch.tensor([3.0, 1.0, 5.0])).sum() + 0.5
    feature_map = torch.tensor([1.0, 5.0]).view(1, 1, 1, 2)
    for out in (pool(feature_map, torch.ones(1, 1, 1, 2)), pool.pool(feature_map)):
        assert out.item() == pytest.approx(expected.item(), rel=1e-6)


def test_regions_see_their_own_cells_only(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    tower, images = tower_of(clip), images_of(DEBUG, 2)
    feature_map = tower.feature_map(images)
    generator = torch.Generator().manual_seed(4)
    cells = torch.rand(5, 9, generator=generator) < 0.5
    cells[0], cells[1] = True, torch.arange(9) == 4  # everything, and one cell
    assert cells.any(dim=1).all()
    masks = cells.view(5, 3, 3).expand(2, 5, 3, 3)
    masks = masks.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)  # (2, 5, 24, 24)
    weights = {key.removeprefix("visual.attnpool."): value for key, value in clip.state_dict().items()}
    expected = torch.stack([reference_pool(weights, DEBUG, feature_map, keep) for keep in cells], dim=1)
    found = clip.encode_regions(images, masks.float())
    assert found.shape == (2, 5, DEBUG.embed_dim)
    assert (found - expected).abs().max() <= TOLERANCE
    assert (found[:, 0] - clip.encode_image(images)).abs().max() <= 1e-5


def test_small_and_empty_regions(make_clip: MakeClip) -> None:
    clip = make_clip(DEBUG)
    images = images_of(DEBUG, 1)
    masks = torch.zeros(1, 3, 96, 96)
    masks[0, 0, 40, 40] = 1  # one pixel of the cell in the middle
    masks[0, 1, 32:64, 32:64] = 1  # all of that cell
    found = clip.encode_regions(images, masks)
    assert found.isfinite().all()
    assert not torch.allclose(found[0, 0], found[0, 1])  # the small one is mostly its mean
    assert clip.encode_regions(images, masks[:, :0]).shape == (1, 0, DEBUG.embed_dim)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 160), (128, 128)])
def test_other_input_sizes(make_clip: MakeClip, height: int, width: int) -> None:
    clip = make_clip(DEBUG)
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    features = clip.encode_image(images)
    assert features.shape == (2, DEBUG.embed_dim)
    everywhere = clip.encode_regions(images, torch.ones(2, 1, 7, 5))[:, 0]
    assert (everywhere - features).abs().max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rn50", "rn50x4"])
def test_at_its_published_size(make_clip: MakeClip, name: str) -> None:
    clip = make_clip(CLIP_SIZES[name])
    images = images_of(clip.config, 2)
    start = time.monotonic()
    _, expected = reference_features(clip.state_dict(), clip.config, images)
    difference = (clip.encode_image(images) - expected).abs().max()
    largest = float(expected.abs().max())
    print(f"{name}: largest difference {difference:.1e} of {largest:.1f} in {time.monotonic() - start:.0f} s")
    assert difference <= TOLERANCE * max(1.0, largest)
