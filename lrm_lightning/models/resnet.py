"""The residual network of the CIFAR-10 adversarial challenge, "simple" and "wide"."""

import math
from collections.abc import Sequence
from itertools import pairwise

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
from lrm_lightning.models.standardize import ImageStandardization

SLOPE = 0.1
BN_EPS = 1e-3
STRIDES = (1, 2, 2)


class Unit(nn.Module):
    """Pre-activation residual unit whose shortcut has no parameters; the stride is 1 or 2.

    With ``activate_shortcut`` the shortcut begins after the first batch norm and leaky ReLU and not
    before them; the network's very first unit has it so.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, activate_shortcut: bool = False
    ) -> None:
        super().__init__()
        self.stride = stride
        self.activate_shortcut = activate_shortcut
        self.new_channels = out_channels - in_channels
        self.bn1 = nn.BatchNorm2d(in_channels, eps=BN_EPS)
        padding = 1 if stride == 1 else 0
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.leaky_relu(self.bn1(x), SLOPE)
        shortcut = self.shortcut(active if self.activate_shortcut else x)
        if self.stride == 2:
            # TensorFlow's SAME on an even size pads the bottom and the right alone.
            active = F.pad(active, (0, 1, 0, 1))
        hidden = F.leaky_relu(self.bn2(self.conv1(active)), SLOPE)
        return self.conv2(hidden) + shortcut

    def shortcut(self, x: Tensor) -> Tensor:
        """Average-pool by the stride and zero-pad the channels equally on both sides."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, self.new_channels // 2, self.new_channels // 2))
        return x


class ResNet(nn.Module):
    """Pre-activation ResNet: a stem, three stages of strides 1, 2, 2, and a linear head.

    With ``depth=5`` it has 464,154 parameters at widths (16, 16, 32, 64), the paper's network, and
    45,901,914 at (16, 160, 320, 640). Layers follow the TensorFlow original: leaky ReLU of slope
    0.1, batch norm with eps 1e-3, convolutions without biases. Kernels start normal with deviation
    ``sqrt(2 / (9 * out_channels))``, the linear weights uniform within ``sqrt(3 / fan_in)``.

    Args:
        depth: Residual units in a stage, from 1 to 1000.
        widths: Channels of the stem and of the three stages. They may not shrink, and grow by even
            numbers, because a shortcut zero-pads new channels equally on both sides.
        num_classes: Logits ``C``, at least 2.
        in_channels: Channels of an image.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Madry et al. 2018, arXiv:1706.06083, its CIFAR-10 challenge; Summers & Dinneen, section 5.1.
    """

    def __init__(
        self,
        depth: int = 5,
        widths: Sequence[int] = (16, 16, 32, 64),
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_integer("depth", depth, low=1, high=MOST_BLOCKS)
        check_integer("num_classes", num_classes, low=2)
        check_integer("in_channels", in_channels, low=1)
        self.widths = _checked_widths(widths)

        self.standardize = ImageStandardization()
        self.stem = nn.Conv2d(in_channels, self.widths[0], 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        for (width_in, width_out), stride in zip(pairwise(self.widths), STRIDES, strict=True):
            first = Unit(width_in, width_out, stride, activate_shortcut=not len(self.stages))
            rest = (Unit(width_out, width_out, 1) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(first, *rest))
        self.bn = nn.BatchNorm2d(self.widths[-1], eps=BN_EPS)
        self.linear = nn.Linear(self.widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (9 * module.out_channels)))
        bound = math.sqrt(3 / self.linear.in_features)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of pixels in [0, 1], ``(N, in_channels, H, W)``."""
        features = self.stages(self.stem(self.standardized(x)))
        return self.linear(F.leaky_relu(self.bn(features), SLOPE).mean(dim=(2, 3)))

    def standardized(self, x: Tensor) -> Tensor:
        """Images of mean 0 and deviation 1, with a border of zeros if 4 doesn't divide H or W."""
        height, width = (-size % 4 for size in x.shape[2:])
        x = self.standardize(x)
        if not (height or width):
            return x
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def frozen(network: ResNet, dtype: torch.dtype) -> FrozenNetwork:
    """The network's view: eval mode, with the weights as they are now; see :mod:`.frozen`."""
    stem = Convolution(network.stem, dtype, turned=True)

    def first(x: Tensor) -> Tensor:
        # Images are turned once, for the padding at a stride of 2; the mean at the end undoes it.
        return stem(network.standardized(x).flip(2, 3).to(dtype))

    units = (_frozen(unit, dtype) for unit in network.modules() if isinstance(unit, Unit))
    return FrozenNetwork(first, *units, frozen_head(network.bn, network.linear, SLOPE))


def _frozen(unit: Unit, dtype: torch.dtype) -> FrozenUnit:
    before, after = Affine(unit.bn1), Affine(unit.bn2)
    return FrozenUnit(
        input_norm=before,
        first=Convolution(unit.conv1, dtype, input_norm=before, output_norm=after, turned=True),
        second=Convolution(unit.conv2, dtype, turned=True),
        slope=SLOPE,
        shortcut_active=unit.activate_shortcut,
        pool=unit.stride,
        new_channels=unit.new_channels,
    )


def _checked_widths(widths: Sequence[int]) -> tuple[int, ...]:
    if len(widths) != 1 + len(STRIDES):
        raise ValueError(f"widths={list(widths)} must be four: the stem's and the three stages'")
    for i, width in enumerate(widths):
        check_integer(f"widths[{i}]", width, low=1)
    growth = [after - before for before, after in pairwise(widths)]
    if any(step < 0 or step % 2 for step in growth):
        why = "since new channels are zero-padded equally on both sides"
        raise ValueError(f"widths={list(widths)} must grow by even numbers or stay equal, {why}")
    return tuple(widths)
