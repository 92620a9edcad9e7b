import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from lrm_lightning.models import PreActResNet, ResNet, WideResNet
from lrm_lightning.models.preact_resnet import CIFAR10_MEAN
from lrm_lightning.models.view import attack_view


def _parameters(depth, factor, num_classes):
    """Counted from Zagoruyko & Komodakis' Table 1, without building it."""
    widths, total = [16, 16 * factor, 32 * factor, 64 * factor], 3 * 9 * 16
    for before, width in pairwise(widths):
        total += 9 * before * width + 9 * width**2 + before * width + 2 * before + 2 * width
        total += ((depth - 4) // 6 - 1) * (18 * width**2 + 4 * width)
    return total + 2 * widths[-1] + (widths[-1] + 1) * num_classes


@pytest.mark.parametrize(("depth", "known"), [(28, 36_479_194), (34, 46_160_474)])
def test_parameters(depth, known):
    with torch.device("meta"):
        network = WideResNet(depth)
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == _parameters(depth, 10, 10) == known


def test_stages_and_initial_weights():
    torch.manual_seed(0)
    network = WideResNet(16, 2, num_classes=7)
    assert [len(stage) for stage in network.stages] == [2, 2, 2]
    assert network.stem.out_channels == 16
    assert network.stages[0][0].shortcut is not None  # 16 to 32 channels
    assert network.stages[0][1].shortcut is None
    features = network.stages(network.stem(torch.zeros(1, 3, 32, 32)))
    assert features.shape == (1, 128, 8, 8)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            wanted = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.15)
    assert not network.linear.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 30}, r"depth=30 must be 6 n \+ 4"),
        ({"depth": 4}, "depth=4"),
        ({"depth": 6 * 10**9 + 4}, "from 10 to 6004"),
        ({"widen_factor": 0}, "widen_factor=0"),
        ({"in_channels": 0}, "in_channels=0"),
    ],
)
def test_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        WideResNet(**arguments)


NETWORKS = {
    "resnet": lambda channels: ResNet(1, (4, 4, 8, 8), 5, channels),
    "preact": lambda channels: PreActResNet((1, 1, 1), (4, 8, 8), 5, channels),
    "wide": lambda channels: WideResNet(10, 1, 5, channels),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (31, 18), (9, 5), (3, 3)], ids=str)
@pytest.mark.parametrize("family", NETWORKS)
def test_images_of_any_size_and_their_fast_view(family, size, channels):
    torch.manual_seed(0)
    network = NETWORKS[family](channels).double().eval()
    x = torch.rand(2, channels, *size, dtype=torch.float64, requires_grad=True)
    gradients = []
    for computed in (network(x), attack_view(network, "fast")(x)):
        assert computed.shape == (2, 5)
        gradients.append((computed.detach(), *torch.autograd.grad(computed.square().sum(), x)))
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-10)
    assert (gradients[0][1] != 0).all()  # every pixel counts


def test_grey_images_are_normalised_by_the_mean_of_the_colours():
    network = PreActResNet((1,), (4,), in_channels=1)
    assert network.normalize.mean.flatten().tolist() == pytest.approx([sum(CIFAR10_MEAN) / 3])
