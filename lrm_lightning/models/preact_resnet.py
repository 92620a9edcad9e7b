"""PreActResNet-18 and wide ResNets, on which adversarial training is usually compared."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrm_lightning.checks import check_integer
from lrm_lightning.models.frozen import (
    MOST_BLOCKS,
    Affine,
    Convolution,
    FrozenNetwork,
    FrozenUnit,
    frozen_head,
)
from lrm_lightning.models.standardize import ChannelNormalization

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class Projection(nn.Conv2d):
    """1x1 convolution whose stride is a slice of the input, because oneDNN's stride can crash.

    With fewer than eight input channels the backward pass of a strided 1x1 convolution writes
    beyond its memory on processors without AVX-512 (uxlfoundation/oneDNN#6035).
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[..., ::rows, ::columns], self.weight)


class PreActBlock(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions.

    On a change of shape the shortcut is a 1x1 convolution of the activated input, else the input.
    The stride is that of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = Projection(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class PreActResNet(nn.Module):
    """Pre-activation ResNet for small images; the defaults make PreActResNet-18.

    The first layer normalises each channel with CIFAR-10's mean and standard deviation; where there
    are not three channels, with their averages. A batch norm and a ReLU close the last stage, as in
    He et al.: 11,172,170 parameters. (A common copy leaves that pair out and has 11,171,146.)

    Args:
        blocks: Residual blocks in each stage, from 1 to 1000 each.
        widths: Channels of each stage, as many as ``blocks``; the first is also that of the first
            convolution. The first stage has stride 1, the others stride 2.
        num_classes: Logits ``C``, at least 2.
        in_channels: Channels of an image.

    Raises:
        ValueError: If an argument is out of range.

    References:
        He et al. 2016, arXiv:1603.05027; Rice et al. 2020, arXiv:2002.11569.
    """

    stem_width: int | None = None  # channels of the first convolution; None is the first stage's

    def __init__(
        self,
        blocks: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, low=2)
        check_integer("in_channels", in_channels, low=1)
        if not blocks or len(blocks) != len(widths):
            given = f"blocks={list(blocks)} and widths={list(widths)}"
            raise ValueError(f"{given} must be as long, and not empty")
        for name, values, high in (("blocks", blocks, MOST_BLOCKS), ("widths", widths, math.inf)):
            for i, value in enumerate(values):
                check_integer(f"{name}[{i}]", value, low=1, high=high)

        mean, std = CIFAR10_MEAN, CIFAR10_STD
        if in_channels != 3:
            mean, std = ((sum(each) / 3,) * in_channels for each in (mean, std))
        self.normalize = ChannelNormalization(mean, std)
        channels = self.stem_width or widths[0]
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        for count, width in zip(blocks, widths, strict=True):
            first = PreActBlock(channels, width, stride=2 if len(self.stages) else 1)
            rest = (PreActBlock(width, width, stride=1) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *rest))
            channels = width
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of pixels in [0, 1], shape ``(N, channels, H, W)``."""
        features = self.stages(self.stem(self.normalize(x)))
        return self.linear(F.relu(self.bn(features)).mean(dim=(2, 3)))


class WideResNet(PreActResNet):
    """Wide ResNet without dropout: 16 channels, then three stages of 16, 32 and 64 times as many.

    Depth 28 and factor 10 make WRN-28-10 with 36,479,194 parameters, depth 34 WRN-34-10 with
    46,160,474. Kernels start normal with deviation ``sqrt(2 / (k * k * out_channels))``.

    Args:
        depth: Layers, 6 n + 4 for n residual blocks in each stage, from 10 to 6004.
        widen_factor: How many times wider a stage is than the ResNet's, at least 1.
        num_classes: Logits ``C``, at least 2.
        in_channels: Channels of an image.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Zagoruyko & Komodakis 2016, arXiv:1605.07146.
    """

    stem_width = 16

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        check_integer("depth", depth, low=10, high=6 * MOST_BLOCKS + 4)
        check_integer("widen_factor", widen_factor, low=1)
        if depth % 6 != 4:
            raise ValueError(f"depth={depth} must be 6 n + 4, such as 28 or 34")
        widths = [width * widen_factor for width in (16, 32, 64)]
        super().__init__([depth // 6] * 3, widths, num_classes, in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)


def frozen(network: PreActResNet, dtype: torch.dtype) -> FrozenNetwork:
    """The network's view: eval mode, with the weights as they are now; see :mod:`.frozen`."""
    stem = Convolution(network.stem, dtype)
    blocks = (_frozen(each, dtype) for each in network.modules() if isinstance(each, PreActBlock))
    head = frozen_head(network.bn, network.linear, 0.0)
    return FrozenNetwork(lambda x: stem(network.normalize(x).to(dtype)), *blocks, head)


def _frozen(block: PreActBlock, dtype: torch.dtype) -> FrozenUnit:
    before, after = Affine(block.bn1), Affine(block.bn2)
    changed = block.shortcut
    return FrozenUnit(
        input_norm=before,
        first=Convolution(block.conv1, dtype, input_norm=before, output_norm=after),
        second=Convolution(block.conv2, dtype),
        slope=0.0,
        shortcut_active=changed is not None,
        projection=None if changed is None else Convolution(changed, dtype, input_norm=before),
    )
