"""The learning rate over time."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from lrm_lightning.methods.schedules import one_cycle, step_drops

STEPS = 351  # an epoch of 45,000 images in batches of 128


def factor_of(schedule, *, epochs=200, steps_per_epoch=10, **settings):
    """The learning rate over the optimiser's, by the number of steps taken."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    made = schedule(optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch, **settings)
    return made.lr_lambdas[0]


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
    factor = factor_of(step_drops, steps_per_epoch=STEPS)
    assert 0.1 * factor(int(epoch * STEPS) + step) == pytest.approx(lr, rel=1e-3)


@pytest.mark.parametrize("schedule", [step_drops, one_cycle])
def test_warm_up_is_linear_and_reaches_the_peak(schedule):
    factor = factor_of(schedule, warmup_epochs=5)
    rising = [factor(step) for step in range(51)]
    assert rising[0] == pytest.approx(1 / 51)
    assert rising[50] == 1
    gaps = {round(after - before, 12) for before, after in pairwise(rising)}
    assert gaps == {round(1 / 51, 12)}
    assert factor_of(schedule, warmup_epochs=0)(0) == 1


def test_one_cycle_falls_linearly_to_zero():
    factor = factor_of(one_cycle, epochs=7, warmup_epochs=2)
    assert factor(20) == 1
    assert factor(45) == 0.5
    assert factor(69) == pytest.approx(1 / 50)
    assert factor(70) == 0
    assert factor(1000) == 0


def test_warm_up_of_a_fraction_of_an_epoch():
    factor = factor_of(one_cycle, epochs=1, warmup_epochs=0.25)
    values = [factor(step) for step in range(10)]
    assert values[:3] == pytest.approx([1 / 3.5, 2 / 3.5, 3 / 3.5])
    assert values[3:] == pytest.approx([(10 - step) / 7.5 for step in range(3, 10)])
    assert max(values) <= 1


def test_warm_up_longer_than_training_never_falls_below_zero():
    factor = factor_of(one_cycle, epochs=1, steps_per_epoch=2, warmup_epochs=5)
    values = [factor(step) for step in range(20)]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("schedule", "setting", "message"),
    [
        (step_drops, {"warmup_epochs": -1}, "warmup_epochs=-1 must be a number >= 0"),
        (one_cycle, {"warmup_epochs": -1}, "warmup_epochs=-1 must be a number >= 0"),
        (step_drops, {"gamma": 0}, "gamma=0 must be a number > 0 and <= 1"),
        (step_drops, {"gamma": 1.5}, "gamma=1.5 must be a number > 0 and <= 1"),
        (step_drops, {"milestones": [100, 0]}, "milestones=0 must be a number > 0"),
        (
            step_drops,
            {"milestones": 100},
            "milestones=100 must be a list of epochs, e.g. [100, 150",
        ),
        (step_drops, {"milestones": "100"}, "milestones='100' must be a list of epochs, e.g. [100"),
    ],
)
def test_settings_out_of_range(schedule, setting, message):
    with pytest.raises(ValueError, match=r"^\w+=") as error:
        factor_of(schedule, **setting)
    assert str(error.value).startswith(message)
