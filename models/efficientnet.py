"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946; Lite: no squeeze-and-excitation, ReLU6) as an image trunk.

Parameter names are those of the published ImageNet weights (`efficientnet-lite0-57934424.pth`), as are TensorFlow's
«same» padding and the batch norms' epsilon. The batch norms never learn statistics: a few pictures a step would spoil
what a million gave them. Pixels come in as (x - 127) / 128.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_MEAN, PIXEL_STD = 127.0, 128.0
STEM_WIDTH = 32
NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class _Stage:
    """Blocks of one width: the first of them has the stage's stride."""

    width: int
    depth: int
    kernel_size: int
    stride: int
    expansion: int


_STAGES = (
    _Stage(width=16, depth=1, kernel_size=3, stride=1, expansion=1),
    _Stage(width=24, depth=2, kernel_size=3, stride=2, expansion=6),
    _Stage(width=40, depth=2, kernel_size=5, stride=2, expansion=6),
    _Stage(width=80, depth=3, kernel_size=3, stride=2, expansion=6),
    _Stage(width=112, depth=3, kernel_size=5, stride=1, expansion=6),
    _Stage(width=192, depth=4, kernel_size=5, stride=2, expansion=6),
    _Stage(width=320, depth=1, kernel_size=3, stride=1, expansion=6),
)
# The last blocks at strides 4, 8, 16 and 32, and their widths.
LEVEL_ENDS = (2, 4, 10, 15)
LEVEL_WIDTHS = (24, 40, 112, 320)
NUM_BLOCKS = sum(stage.depth for stage in _STAGES)
CLASSIFIER_PREFIXES = ("_conv_head.", "_bn1.", "_fc.")  # of the published weights that a trunk does not have


class EfficientNetLite0(nn.Module):
    """The trunk: pixels (B, 3, H, W), of multiples of 32 -> features (B, C, H / s, W / s) for s of 4, 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, STEM_WIDTH, kernel_size=3, stride=2, bias=False)
        self._bn0 = FixedBatchNorm(STEM_WIDTH)
        self._blocks = nn.ModuleList()
        width = STEM_WIDTH
        for stage in _STAGES:
            for index in range(stage.depth):
                self._blocks.append(InvertedResidual(width, stage, stage.stride if index == 0 else 1))
                width = stage.width

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x = pixels.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0.after(self._conv_stem, same_padding(x, 3, 2)), inplace=True)
        levels = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in LEVEL_ENDS:
                levels.append(x)
        return levels


class InvertedResidual(nn.Module):
    """A block of Sandler et al. 2018 (arXiv:1801.04381): widen, filter each channel, narrow; (B, C, h, w)."""

    def __init__(self, width: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        inner = width * stage.expansion
        self.kernel_size, self.stride = stage.kernel_size, stride
        self.widens = stage.expansion != 1
        self.adds = stride == 1 and width == stage.width
        if self.widens:
            self._expand_conv = nn.Conv2d(width, inner, kernel_size=1, bias=False)
            self._bn0 = FixedBatchNorm(inner)
        self._depthwise_conv = nn.Conv2d(inner, inner, stage.kernel_size, stride, groups=inner, bias=False)
        self._bn1 = FixedBatchNorm(inner)
        self._project_conv = nn.Conv2d(inner, stage.width, kernel_size=1, bias=False)
        self._bn2 = FixedBatchNorm(stage.width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0.after(self._expand_conv, x), inplace=True) if self.widens else x
        padded = same_padding(inner, self.kernel_size, self.stride)
        inner = F.relu6(self._bn1.after(self._depthwise_conv, padded), inplace=True)
        narrow = self._bn2.after(self._project_conv, inner)
        return x + narrow if self.adds else narrow


class FixedBatchNorm(nn.BatchNorm2d):
    """A batch norm that keeps its statistics in training too; its scale and shift learn."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=NORM_EPSILON)
        self.train(False)

    def train(self, mode: bool = True) -> "FixedBatchNorm":
        return super().train(False)

    def after(self, convolution: nn.Conv2d, x: Tensor) -> Tensor:
        """The norm of an unpadded convolution of `x`, as one convolution: the norm's own passes over memory would cost
        more than many a product."""
        assert self.running_var is not None and self.running_mean is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        weight = convolution.weight * scale.view(-1, 1, 1, 1)
        shift = self.bias - self.running_mean * scale
        padding = convolution.kernel_size[0] // 2 if convolution.stride[0] == 1 else 0
        return F.conv2d(x, weight, shift, convolution.stride, padding, groups=convolution.groups)


def same_padding(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """TensorFlow's «same» padding for a strided convolution, whose odd row and column come last; a stride of 1 pads
    alike on all sides, which the convolution itself does."""
    if stride == 1:
        return x
    totals = [max(0, (-(-side // stride) - 1) * stride + kernel_size - side) for side in x.shape[-2:]]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    return F.pad(x, (left, right, top, bottom))
