"""A small network and batch in double precision: identities hold to the last digits."""

import copy

import pytest
import torch
from torch import nn

from lrm_lightning.data import Batch
from lrm_lightning.data.batch import Draws
from lrm_lightning.training import build

CLASSES, IMAGES, SIDE = 4, 6, 8


def _build(*layers_between):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            *layers_between,
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * SIDE**2, CLASSES),
        ).double()


@pytest.fixture
def network():
    """Convolution, tanh, linear: one function in train and in eval mode."""
    return _build()


@pytest.fixture
def bn_network():
    """The same with batch norm, whose statistics aren't those it starts with, and dropout."""
    network = _build(nn.BatchNorm2d(4), nn.Dropout(0.3))
    with torch.no_grad():
        network[1].running_mean += torch.arange(4) / 10
        network[1].running_var *= 1.5
    return network


def _batch(*, mixed=False):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (IMAGES,), generator=generator)
    targets = nn.functional.one_hot(y, CLASSES).double()
    if mixed:
        weight = torch.rand(IMAGES, 1, generator=generator, dtype=torch.float64)
        targets = weight * targets + (1 - weight) * targets.roll(1, 0)
    draws = Draws(seed=3, epoch=1, step=2, size=IMAGES, first_row=0, end_row=IMAGES)
    return Batch(x=x, targets=targets, y=y, index=torch.arange(IMAGES), draws=draws)


@pytest.fixture
def batch():
    """Six images of random pixels with one-hot targets."""
    return _batch()


@pytest.fixture
def mixed_batch():
    """The same with soft targets."""
    return _batch(mixed=True)


@pytest.fixture
def train_on():
    """Function: a defence and a batch to its terms and every parameter's gradient of their sum."""

    def run(defense, batch):
        defense.zero_grad()
        terms = defense.loss_terms(batch)
        torch.stack(list(terms.values())).sum().backward()
        gradients = {name: p.grad.clone() for name, p in defense.network.named_parameters()}
        return {name: term.detach() for name, term in terms.items()}, gradients

    return run


@pytest.fixture
def assert_trains():
    """Function: asserts what ``train_on`` found, given the terms with their graphs."""

    def check(found, expected, network):
        terms, gradients = found
        assert list(terms) == list(expected)
        for name, term in expected.items():
            torch.testing.assert_close(terms[name], term.detach(), rtol=1e-9, atol=1e-12)
        total = torch.stack(list(expected.values())).sum()
        wanted = torch.autograd.grad(total, list(network.parameters()))
        for gradient, other in zip(gradients.values(), wanted, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-11)

    return check


@pytest.fixture
def make():
    """Function: a defence of a class around its own copy of a network."""

    def run(defense, network, **settings):
        return defense(copy.deepcopy(network), num_classes=CLASSES, **settings)

    return run


@pytest.fixture
def from_conf(composed):
    """Function: the defence of a file of ``conf/method`` around its own copy of a network."""

    def run(method, network, *overrides):
        cfg = composed("config", f"method={method}", *overrides)
        return build.build_defense(cfg, copy.deepcopy(network), num_classes=CLASSES)

    return run
