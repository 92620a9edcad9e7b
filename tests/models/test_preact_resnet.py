import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrm_lightning.models import PreActResNet
from lrm_lightning.models.preact_resnet import Projection


def expected_parameters(blocks, widths, num_classes):
    """Counted from the architecture, without building it."""
    total, channels = 3 * 9 * widths[0], widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            batch_norms = 2 * channels + 2 * width
            total += batch_norms + 9 * channels * width + 9 * width * width
            if block == 0 and (stage > 0 or channels != width):
                total += channels * width
            channels = width
    return total + 2 * channels + (channels + 1) * num_classes


def reference(state, x, blocks):
    """He et al.'s network written down flat, evaluation mode."""

    def activate(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in names)).relu()

    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    std = torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1)
    x = F.conv2d((x - mean) / std, state["stem.weight"], padding=1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"stages.{stage}.{block}"
            stride = 2 if stage > 0 and block == 0 else 1
            active = activate(x, f"{name}.bn1")
            if f"{name}.shortcut.weight" in state:
                x = F.conv2d(active, state[f"{name}.shortcut.weight"], stride=stride)
            out = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = activate(out, f"{name}.bn2")
            x = x + F.conv2d(out, state[f"{name}.conv2.weight"], padding=1)
    x = activate(x, "bn").flatten(2).mean(dim=2)
    return F.linear(x, state["linear.weight"], state["linear.bias"])


def make(blocks=(1, 2), widths=(4, 8), num_classes=5):
    torch.manual_seed(0)
    network = PreActResNet(blocks, widths, num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(("blocks", "widths"), [((1, 2), (4, 8)), ((2, 1, 1), (4, 4, 6))])
def test_forward_equals_the_flat_network(blocks, widths):
    network = make(blocks, widths)
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = reference(network.state_dict(), x, blocks)
    np.testing.assert_allclose(network(x).detach(), expected, rtol=1e-4, atol=1e-5)


def test_parameters_of_preact_resnet_18():
    network = PreActResNet()
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == expected_parameters((2, 2, 2, 2), (64, 128, 256, 512), 10) == 11_172_170
    # The count usually quoted is that of the variant without the last batch norm.
    assert total - sum(parameter.numel() for parameter in network.bn.parameters()) == 11_171_146


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"blocks": (2, 2)}, "as long"),
        ({"blocks": (), "widths": ()}, "not empty"),
        ({"blocks": (2, 0), "widths": (4, 4)}, r"blocks\[1\]=0"),
        ({"blocks": (10**9,), "widths": (4,)}, r"blocks\[0\]=1000000000 must .* from 1 to 1000"),
        ({"blocks": (2, 2), "widths": (4, -1)}, r"widths\[1\]=-1"),
    ],
)
def test_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        PreActResNet(**arguments)


@pytest.mark.parametrize("channels", [3, 4, 8])
def test_projection_and_its_gradients_are_those_of_a_convolution_with_a_stride(channels):
    torch.manual_seed(0)
    projection = Projection(channels, 8, 1, stride=2, bias=False)
    x = torch.rand(32, channels, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    weight, pixels = (each.detach().double().requires_grad_() for each in (projection.weight, x))
    expected = F.conv2d(pixels, weight, stride=2)
    torch.testing.assert_close(projection(x), expected.float())
    projection(x).square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in ((projection.weight.grad, weight.grad), (x.grad, pixels.grad)):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-4)
