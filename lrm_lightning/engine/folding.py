"""The same network for as long as its weights stand still: batch norms folded away."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrm_lightning.engine.residual import Affine, Convolution, FrozenUnit
from lrm_lightning.models.preact_resnet import PreActBlock, PreActResNet
from lrm_lightning.models.resnet import SLOPE, ResNet, Unit

Layer = Callable[[Tensor], Tensor]


class Folded(nn.Module):
    """Layers without parameters, one after another.

    Args:
        layers: First to last.
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x``."""
        for layer in self.layers:
            x = layer(x)
        return x


def folded(network: nn.Module) -> nn.Module:
    """A network that computes what ``network`` computes in eval mode, faster.

    Args:
        network: A :class:`~lrm_lightning.models.resnet.ResNet` or a
            :class:`~lrm_lightning.models.preact_resnet.PreActResNet`; any other, subclasses of
            these included, comes back as it is.

    Returns:
        Holds copies of the weights as they are now and gives gradients of its input alone. Logits
        and gradients agree with the network's to rounding.
    """
    fold = FAMILIES.get(type(network))
    return network if fold is None else fold(network)


def _resnet(network: ResNet) -> nn.Module:
    units = [_unit(module) for module in network.modules() if isinstance(module, Unit)]
    head = _head(network.bn, network.linear, SLOPE)
    return Folded(network.standardize, Convolution(network.stem), *units, head)


def _preact_resnet(network: PreActResNet) -> nn.Module:
    blocks = [_block(module) for module in network.modules() if isinstance(module, PreActBlock)]
    head = _head(network.bn, network.linear, 0.0)
    return Folded(network.normalize, Convolution(network.stem), *blocks, head)


def _unit(unit: Unit) -> FrozenUnit:
    before, after = Affine(unit.bn1), Affine(unit.bn2)
    return FrozenUnit(
        before=before,
        first=Convolution(unit.conv1, before=before, after=after, pad_end=unit.stride == 2),
        second=Convolution(unit.conv2),
        slope=SLOPE,
        shortcut_active=unit.activate_shortcut,
        pool=unit.stride,
        new_channels=unit.new_channels,
    )


def _block(block: PreActBlock) -> FrozenUnit:
    before, after = Affine(block.bn1), Affine(block.bn2)
    changed = block.shortcut
    return FrozenUnit(
        before=before,
        first=Convolution(block.conv1, before=before, after=after),
        second=Convolution(block.conv2),
        slope=0.0,
        shortcut_active=changed is not None,
        projection=None if changed is None else Convolution(changed, before=before),
    )


def _head(bn: nn.BatchNorm2d, linear: nn.Linear, slope: float) -> Layer:
    affine = Affine(bn)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()

    def layer(x: Tensor) -> Tensor:
        active = F.leaky_relu(torch.addcmul(affine.shift, x, affine.scale), slope)
        return F.linear(active.mean(dim=(2, 3)), weight, bias)

    return layer


FAMILIES: dict[type[nn.Module], Callable[..., nn.Module]] = {
    ResNet: _resnet,
    PreActResNet: _preact_resnet,
}
