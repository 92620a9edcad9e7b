"""A small trained network with batch norm and dropout, and images on which it can be fooled."""

import copy

import pytest
import torch
from torch import nn

CLASSES = 4


def _images(count, generator):
    """Four fixed patterns under noise: learned in a moment, and not robust."""
    patterns = torch.rand(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return (0.5 + 0.25 * (patterns[y] - 0.5) + 0.15 * noise).clamp(0, 1), y


@pytest.fixture(scope="session")
def _trained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.1),
            nn.Dropout(0.2),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(128, CLASSES),
        )
        generator = torch.Generator().manual_seed(2)
        parameters = list(network.parameters())
        for _ in range(60):
            x, y = _images(64, generator)
            loss = nn.functional.cross_entropy(network(x), y)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= 0.1 * gradient
    return network.eval()


@pytest.fixture
def network(_trained):
    """A copy of its own for each test, in eval mode."""
    return copy.deepcopy(_trained)


@pytest.fixture
def batch():
    """Images (48, 3, 8, 8) in [0, 1] and labels."""
    return _images(48, torch.Generator().manual_seed(3))
