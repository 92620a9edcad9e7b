"""The network against a second one in numpy: NHWC, TensorFlow's padding rule, no torch layers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lrm_lightning.models import ResNet


def same_conv(x, kernel, stride):
    """TensorFlow's SAME convolution: ``x`` is NHWC, ``kernel`` torch's (out, in, 3, 3)."""
    pads = []
    for size in x.shape[1:3]:
        total = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ocij->nhwo", windows[:, ::stride, ::stride], kernel)


def average_pool(x, stride):
    n, h, w, c = x.shape
    return x.reshape(n, h // stride, stride, w // stride, stride, c).mean(axis=(2, 4))


class NumpyResNet:
    """The same function from a state dict alone."""

    def __init__(self, state, depth, *, training):
        self.state = {name: value.numpy() for name, value in state.items()}
        self.depth = depth
        self.training = training

    def activate(self, x, name):
        mean = self.state[f"{name}.running_mean"]
        variance = self.state[f"{name}.running_var"]
        if self.training:
            mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        x = (x - mean) / np.sqrt(variance + 0.001)
        x = x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]
        return np.where(x < 0, 0.1 * x, x)

    def unit(self, x, name, stride, *, first):
        active = self.activate(x, f"{name}.bn1")
        skip = average_pool(active if first else x, stride)
        out = same_conv(active, self.state[f"{name}.conv1.weight"], stride)
        out = same_conv(self.activate(out, f"{name}.bn2"), self.state[f"{name}.conv2.weight"], 1)
        side = (out.shape[3] - skip.shape[3]) // 2
        return out + np.pad(skip, ((0, 0), (0, 0), (0, 0), (side, side)))

    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        flat = x.reshape(len(x), -1)
        std = np.maximum(flat.std(axis=1), 1 / math.sqrt(flat.shape[1]))
        x = (x - flat.mean(axis=1).reshape(-1, 1, 1, 1)) / std.reshape(-1, 1, 1, 1)
        x = same_conv(x, self.state["stem.weight"], 1)
        for stage, stride in enumerate((1, 2, 2)):
            for i in range(self.depth):
                first = stage == 0 and i == 0
                x = self.unit(x, f"stages.{stage}.{i}", stride if i == 0 else 1, first=first)
        x = self.activate(x, "bn").mean(axis=(1, 2))
        return x @ self.state["linear.weight"].T + self.state["linear.bias"]


def make(depth=1, widths=(4, 6, 8, 8), **options):
    """A float64 network whose batch norms are not the identity."""
    torch.manual_seed(0)
    network = ResNet(depth, widths, **options).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.001, 1.5)
    nn.init.normal_(network.linear.bias)
    return network


def pixels(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("depth", "widths"), [(1, (4, 4, 6, 8)), (2, (4, 6, 8, 8)), (3, (2, 8, 8, 12))]
)
def test_forward_equals_the_numpy_network(depth, widths, training):
    network = make(depth, widths, num_classes=7).train(training)
    reference = NumpyResNet(network.state_dict(), depth, training=training)
    x = pixels(3, 3, 16, 8)
    expected = reference(x.numpy())
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_parameters_of_the_simple_and_the_wide_network():
    assert parameters(ResNet()) == 464_154
    assert parameters(ResNet(widths=(16, 160, 320, 640))) == 45_901_914


@pytest.mark.parametrize("num_classes", [2, 100])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_shape_of_the_logits(num_classes, in_channels):
    network = make(num_classes=num_classes, in_channels=in_channels)
    assert network(pixels(5, in_channels, 32, 32)).shape == (5, num_classes)


def test_initial_weights():
    torch.manual_seed(0)
    network = ResNet(2, (16, 32, 64, 128))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            wanted = math.sqrt(2 / (9 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.1)
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-3
            assert module.momentum == 0.1
    bound = math.sqrt(3 / 128)
    assert 0.97 * bound < network.linear.weight.abs().max() <= bound
    assert not network.linear.bias.any()


def test_gradient_to_the_pixels_of_a_constant_image_is_finite_and_not_zero():
    network = make().eval()
    x = torch.full((2, 3, 32, 32), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_gradient_to_the_pixels_is_the_slope_of_the_logits():
    network = make().eval()
    x = pixels(1, 3, 8, 8).requires_grad_()
    assert torch.autograd.gradcheck(network, x, fast_mode=True)


def test_channels_last_changes_nothing_and_lasts_to_the_end():
    network = make(depth=2).eval()
    x = pixels(4, 3, 16, 16)
    expected = network(x)
    network.to(memory_format=torch.channels_last)
    last = torch.channels_last
    seen = []
    for unit in network.stages.modules():
        if hasattr(unit, "conv1"):
            unit.register_forward_hook(
                lambda _, __, out: seen.append(out.is_contiguous(memory_format=last))
            )
    torch.testing.assert_close(network(x.contiguous(memory_format=last)), expected)
    assert seen == [True] * 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth=0"),
        ({"depth": 1.5}, "depth=1.5"),
        ({"depth": 10**9}, "depth=1000000000 must be a whole number from 1 to 1000"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"widths": (16, 16, 32)}, "four"),
        ({"widths": (16, 0, 32, 64)}, r"widths\[1\]=0"),
        ({"widths": (16, 17, 32, 64)}, "even"),
        ({"widths": (16, 8, 32, 64)}, "stay equal"),
    ],
)
def test_rejects(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        ResNet(**arguments)
    assert "\n" not in str(caught.value)
