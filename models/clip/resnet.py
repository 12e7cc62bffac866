"""CLIP's ModifiedResNet tower (facts: CLIP's published `model.py`; arXiv:2103.00020, section 2.4).

A ResNet-D (He et al. 2018, arXiv:1812.01187) whose strides are average pools, so that they do not alias (Zhang 2019,
arXiv:1904.11486), and whose last pool is attention. What no backward pass reads is overwritten, which saves memory.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.clip.attention_pool import AttentionPool2d


class Bottleneck(nn.Module):
    """(B, in_channels, H, W) -> (B, 4 * channels, H / stride, W / stride); an average pool does the striding."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), nn.BatchNorm2d(out_channels)
            )
        nn.init.zeros_(self.bn3.weight)  # a fresh block passes its input on

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.bn1(self.conv1(x)))
        out = F.relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        return F.relu_(out.add_(self.downsample(self.avgpool(x))))


class ModifiedResNet(nn.Module):
    """Image (B, 3, H, W), normalised -> features (B, embed_dim); H and W are multiples of 32.

    `feature_map` gives what is pooled; `pool_regions` pools it over masks, many masks for one pass over the image.
    Where H and W give another grid than `grid_size`, the positions of the attention pool are interpolated.
    """

    def __init__(self, *, grid_size: int, width: int, layers: tuple[int, ...], num_heads: int, embed_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _stage(width, width, layers[0], stride=1)
        self.layer2 = _stage(4 * width, 2 * width, layers[1], stride=2)
        self.layer3 = _stage(8 * width, 4 * width, layers[2], stride=2)
        self.layer4 = _stage(16 * width, 8 * width, layers[3], stride=2)
        self.attnpool = AttentionPool2d(grid_size=grid_size, width=32 * width, num_heads=num_heads, embed_dim=embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.attnpool.pool(self.feature_map(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 32 * width, H / 32, W / 32)."""
        x = F.relu_(self.bn1(self.conv1(images)))
        x = F.relu_(self.bn2(self.conv2(x)))
        x = self.avgpool(F.relu_(self.bn3(self.conv3(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def pool_regions(self, feature_map: Tensor, masks: Tensor) -> Tensor:
        """Features of K regions of each image: (B, 32 * width, h, w), (B, K, H, W) -> (B, K, embed_dim).

        `masks` are 0 to 1, of any resolution; each cell of the feature map counts by the share that the mask covers,
        so that a mask of one pixel still has a feature. A mask that covers nothing gets a finite one of no meaning.
        """
        coverage = F.interpolate(masks.to(feature_map.dtype), size=feature_map.shape[-2:], mode="area")
        return self.attnpool(feature_map, coverage)


def fold_batch_norms(tower: ModifiedResNet) -> None:
    """Makes each batch norm of a tower in eval mode a part of the convolution before it, for good: the same features
    up to rounding, with fewer passes over memory."""
    assert not tower.training, "a batch norm that learns cannot be folded"
    for block in (tower, *(one for one in tower.modules() if isinstance(one, Bottleneck))):
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
        if isinstance(block, Bottleneck) and isinstance(block.downsample, nn.Sequential):
            block.downsample = fuse_conv_bn_eval(*block.downsample)


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    """Bottlenecks of one resolution; the first does the striding."""
    inner = channels * Bottleneck.expansion
    return nn.Sequential(
        Bottleneck(in_channels, channels, stride), *(Bottleneck(inner, channels, 1) for _ in range(1, num_blocks))
    )
