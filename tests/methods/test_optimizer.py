"""Which parameters decay, and the learning rate over time."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from lrm_lightning.methods import SGDRecipe
from lrm_lightning.models import PreActResNet, ResNet

STEPS = 351  # an epoch of 45,000 images in batches of 128


NETWORKS = {
    "resnet": lambda: ResNet(depth=1, widths=(4, 4, 8, 8)),
    "preact_resnet": lambda: PreActResNet(blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8)),
    "group_norm": lambda: nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(2, 2)
    ),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_only_kernels_decay_and_nothing_is_left_out(build):
    network = build()
    optimizer = SGDRecipe(weight_decay=0.123).optimizer(network)
    kernels = {
        id(module.weight)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen.append(id(parameter))
            assert group["weight_decay"] == (0.123 if id(parameter) in kernels else 0)
    assert sorted(seen) == sorted(id(parameter) for parameter in network.parameters())
    assert len(kernels) > 0


def test_settings_reach_the_optimizer():
    recipe = SGDRecipe(lr=0.3, momentum=0.7, nesterov=True)
    for group in recipe.optimizer(nn.Linear(2, 2)).param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.3, 0.7, True)
        assert group["dampening"] == 0


def test_defaults_are_section_5_1():
    recipe = SGDRecipe()
    assert (recipe.lr, recipe.momentum, recipe.nesterov) == (0.1, 0.9, False)
    assert recipe.weight_decay == 2e-4
    assert (recipe.schedule, recipe.warmup_epochs, recipe.gamma) == ("step", 5, 0.1)
    assert tuple(recipe.milestones) == (100, 150)


def test_one_step_of_sgd_is_momentum_and_decay():
    layer = nn.Linear(3, 2)
    optimizer = SGDRecipe(lr=0.5, momentum=0.9, weight_decay=0.1).optimizer(layer)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    velocity = torch.zeros_like(weight)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + torch.ones_like(weight) + 0.1 * weight
        weight = weight - 0.5 * velocity
    torch.testing.assert_close(layer.weight.detach(), weight)
    # no decay: 0.5 * (1 + 1.9 + 2.71)
    torch.testing.assert_close(layer.bias.detach(), bias - 0.5 * (1 + 1.9 + 2.71))


@pytest.mark.parametrize(
    ("epoch", "step", "lr"),
    [
        (0, 0, 0.1 / (5 * STEPS + 1)),
        (2.5, 0, 0.05),
        (5, 0, 0.1),
        (99, STEPS - 1, 0.1),
        (100, 0, 0.01),
        (149, STEPS - 1, 0.01),
        (150, 0, 0.001),
        (199, STEPS - 1, 0.001),
    ],
)
def test_learning_rate_of_the_paper(epoch, step, lr):
    factor = SGDRecipe().lr_factor(STEPS, 200)
    assert 0.1 * factor(int(epoch * STEPS) + step) == pytest.approx(lr, rel=1e-3)


@pytest.mark.parametrize("schedule", ["step", "one_cycle"])
def test_warm_up_is_linear_and_reaches_the_peak(schedule):
    factor = SGDRecipe(schedule=schedule, warmup_epochs=5).lr_factor(10, 200)
    rising = [factor(step) for step in range(51)]
    assert rising[0] == pytest.approx(1 / 51)
    assert rising[50] == 1
    gaps = {round(after - before, 12) for before, after in pairwise(rising)}
    assert gaps == {round(1 / 51, 12)}


def test_one_cycle_falls_linearly_to_zero():
    factor = SGDRecipe(schedule="one_cycle", warmup_epochs=2).lr_factor(10, 7)
    assert factor(20) == 1
    assert factor(45) == 0.5
    assert factor(69) == pytest.approx(1 / 50)
    assert factor(70) == 0
    assert factor(1000) == 0


@pytest.mark.parametrize("schedule", ["step", "one_cycle"])
def test_no_warm_up(schedule):
    factor = SGDRecipe(schedule=schedule, warmup_epochs=0).lr_factor(10, 4)
    assert factor(0) == 1


def test_warm_up_of_a_fraction_of_an_epoch():
    factor = SGDRecipe(schedule="one_cycle", warmup_epochs=0.25).lr_factor(10, 1)
    values = [factor(step) for step in range(10)]
    assert values[:3] == pytest.approx([1 / 3.5, 2 / 3.5, 3 / 3.5])
    assert values[3:] == pytest.approx([(10 - step) / 7.5 for step in range(3, 10)])
    assert max(values) <= 1


def test_warm_up_longer_than_training_never_falls_below_zero():
    factor = SGDRecipe(schedule="one_cycle", warmup_epochs=5).lr_factor(2, 1)
    values = [factor(step) for step in range(20)]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0}, "lr=0 must be a number > 0"),
        ({"lr": math.nan}, "lr=nan must be a number > 0"),
        ({"lr": math.inf}, "lr=inf must be a number > 0"),
        ({"momentum": -0.1}, "momentum=-0.1 must be a number >= 0 and < 1"),
        ({"momentum": 1}, "momentum=1 must be a number >= 0 and < 1"),
        ({"nesterov": "no"}, "nesterov='no' must be true or false"),
        ({"nesterov": True, "momentum": 0}, "nesterov=True needs momentum > 0"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001 must be a number >= 0"),
        ({"schedule": "cosine"}, "schedule='cosine' is unknown; choose one of: step, one_cycle"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1 must be a number >= 0"),
        ({"gamma": 0}, "gamma=0 must be a number > 0 and <= 1"),
        ({"gamma": 1.5}, "gamma=1.5 must be a number > 0 and <= 1"),
        ({"milestones": [100, 0]}, "milestones=0 must be a number > 0"),
        ({"milestones": 100}, "milestones=100 must be a list of epochs, e.g. [100, 150]"),
        ({"milestones": "100"}, "milestones='100' must be a list of epochs, e.g. [100, 150]"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        SGDRecipe(**setting)
    assert str(error.value) == message
