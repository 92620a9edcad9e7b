"""The same network for as long as its weights stand still: batch norms folded away."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrm_lightning.models.frozen import Affine, Convolution, FrozenUnit
from lrm_lightning.models.preact_resnet import PreActBlock, PreActResNet
from lrm_lightning.models.resnet import SLOPE, ResNet, Unit

Layer = Callable[[Tensor], Tensor]


class Folded(nn.Module):
    """Layers without parameters, one after another.

    Args:
        layers: First to last; each says itself what type it computes in.
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x``."""
        with torch.autocast(x.device.type, enabled=False):
            for layer in self.layers:
                x = layer(x)
        return x


def folded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network that computes what ``network`` computes in eval mode, faster.

    Args:
        network: A :class:`~lrm_lightning.models.resnet.ResNet` or a
            :class:`~lrm_lightning.models.preact_resnet.PreActResNet`; any other, subclasses of
            these included, comes back as it is.
        dtype: Of the activations between the first convolution and the last. Logits and the
            gradient of the images have the type of the weights.

    Returns:
        Holds copies of the weights as they are now and gives gradients of its input alone. Logits
        and gradients agree with the network's to rounding.
    """
    fold = FAMILIES.get(type(network))
    return network if fold is None else fold(network, dtype)


def _resnet(network: ResNet, dtype: torch.dtype) -> nn.Module:
    stem = Convolution(network.stem, mirrored=True, dtype=dtype)
    units = [_unit(module, dtype) for module in network.modules() if isinstance(module, Unit)]
    head = _head(network.bn, network.linear, SLOPE)

    def first(x: Tensor) -> Tensor:
        # Turned once, for the padding of the stride-2 convolutions; the mean at the end undoes it.
        return stem(network.standardize(x).flip(2, 3).to(dtype))

    return Folded(first, *units, head)


def _preact_resnet(network: PreActResNet, dtype: torch.dtype) -> nn.Module:
    stem = Convolution(network.stem, dtype=dtype)
    blocks = [_block(each, dtype) for each in network.modules() if isinstance(each, PreActBlock)]
    head = _head(network.bn, network.linear, 0.0)
    return Folded(lambda x: stem(network.normalize(x).to(dtype)), *blocks, head)


def _unit(unit: Unit, dtype: torch.dtype) -> FrozenUnit:
    before, after = Affine(unit.bn1), Affine(unit.bn2)
    return FrozenUnit(
        before=before,
        first=Convolution(unit.conv1, before=before, after=after, mirrored=True, dtype=dtype),
        second=Convolution(unit.conv2, mirrored=True, dtype=dtype),
        slope=SLOPE,
        shortcut_active=unit.activate_shortcut,
        pool=unit.stride,
        new_channels=unit.new_channels,
    )


def _block(block: PreActBlock, dtype: torch.dtype) -> FrozenUnit:
    before, after = Affine(block.bn1), Affine(block.bn2)
    changed = block.shortcut
    return FrozenUnit(
        before=before,
        first=Convolution(block.conv1, before=before, after=after, dtype=dtype),
        second=Convolution(block.conv2, dtype=dtype),
        slope=0.0,
        shortcut_active=changed is not None,
        projection=None if changed is None else Convolution(changed, before=before, dtype=dtype),
    )


def _head(bn: nn.BatchNorm2d, linear: nn.Linear, slope: float) -> Layer:
    affine = Affine(bn)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()

    def layer(x: Tensor) -> Tensor:
        x = x.to(weight.dtype)
        active = F.leaky_relu(torch.addcmul(affine.shift, x, affine.scale), slope)
        return F.linear(active.mean(dim=(2, 3)), weight, bias)

    return layer


FAMILIES: dict[type[nn.Module], Callable[..., nn.Module]] = {
    ResNet: _resnet,
    PreActResNet: _preact_resnet,
}
