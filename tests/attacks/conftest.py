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
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(60):
            x, y = _images(64, generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        optimizer.zero_grad()
    return network.eval()


@pytest.fixture
def network(_trained):
    """A copy of its own for each test, in eval mode."""
    return copy.deepcopy(_trained)


@pytest.fixture
def batch():
    """Images (48, 3, 8, 8) in [0, 1] and labels."""
    return _images(48, torch.Generator().manual_seed(3))


@pytest.fixture
def counting():
    """Function: a network to one that counts its passes in ``forwards``."""

    class Counting(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network
            self.forwards = 0

        def forward(self, x):
            self.forwards += 1
            return self.network(x)

    return Counting
