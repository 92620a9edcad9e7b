"""Small trained networks and images on which their robustness is known."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.evaluation.bench import Bench, Images
from lrm_lightning.evaluation.suites import evaluate
from lrm_lightning.evaluation.transfer import transfer
from lrm_lightning.runs.identity import plain

CLASSES = 4
EPS = 0.08


def _draw(count, generator):
    """Four fixed patterns under noise."""
    patterns = torch.rand(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return (0.5 + 0.4 * (patterns[y] - 0.5) + 0.1 * noise).clamp(0, 1), y


def _train(attack):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    )
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(150):
        x, y = _draw(64, generator)
        x = x if attack is None else attack(network, x, y, generator=generator)
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="session")
def networks():
    with torch.random.fork_rng(devices=[]):
        attack = PGDAttack(eps=EPS, step_size=EPS / 2, steps=4)
        return {"undefended": _train(None), "pgd": _train(attack)}


@pytest.fixture
def undefended(networks):
    """Trained on clean images."""
    return copy.deepcopy(networks["undefended"])


@pytest.fixture
def robust(networks):
    """Trained on PGD's images."""
    return copy.deepcopy(networks["pgd"])


@pytest.fixture(scope="session")
def images():
    """Images (80, 3, 8, 8) of the patterns, as if they were every other one of a split."""
    x, y = _draw(80, torch.Generator().manual_seed(3))
    return Images(x, y, np.arange(0, 160, 2), np.arange(8))


@pytest.fixture(scope="session")
def make_bench(images):
    """``make_bench(**fields)``: a bench with the images and the threat model."""

    def make(**fields):
        threat = PGDAttack(eps=EPS, step_size=0.26 * EPS)
        return Bench(**{"images": images, "threat": threat} | fields)

    return make


@pytest.fixture
def evaluated(composed):
    """``evaluated(*overrides)``: what ``evaluate`` records, in this process."""
    return lambda *overrides: evaluate(plain(composed("evaluate", *overrides)))


@pytest.fixture
def transferred(composed):
    """``transferred(*overrides)``: what ``transfer`` records, in this process."""
    return lambda *overrides: transfer(plain(composed("transfer", *overrides)))


@pytest.fixture(scope="session")
def draw_images():
    """``draw_images(count, generator)``: images of the patterns, and labels."""
    return _draw
