"""extend=...: a longer training goes on from the end of a finished one."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from lrm_lightning.methods import Regular
from lrm_lightning.methods.schedules import one_cycle, step_drops
from lrm_lightning.runs.identity import identifying
from lrm_lightning.training.checkpoints import reschedule

STEPS = 3  # an epoch


def _cosine(optimizer, *, epochs, steps_per_epoch):
    return CosineAnnealingLR(optimizer, T_max=epochs * steps_per_epoch)


SCHEDULES = [step_drops, one_cycle, _cosine, partial(OneCycleLR, max_lr=0.1)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["drops", "one_cycle", "cosine", "OneCycleLR"])
def test_rates_are_those_of_the_longer_training(schedule):
    defense = Regular(torch.nn.Linear(2, 2), scheduler=schedule)

    def trained(epochs, steps, *, state=None, then=0):
        """The rates after each of ``then`` steps, and the state, as Lightning saves them."""
        optimizer = defense.make_optimizer()
        scheduler = defense.make_scheduler(optimizer, epochs=epochs, steps_per_epoch=STEPS)
        if state is not None:
            optimizer.load_state_dict(state["optimizer_states"][0])
            scheduler.load_state_dict(state["lr_schedulers"][0])
        rates = []
        for _ in range(steps + then):
            rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            scheduler.step()
        saved = {"optimizer_states": [optimizer.state_dict()]}
        return rates, saved | {"lr_schedulers": [scheduler.state_dict()]}

    _, saved = trained(2, 2 * STEPS - 1)
    reschedule(saved, defense, epochs=5, steps_per_epoch=STEPS)
    rates, _ = trained(5, 0, state=saved, then=3 * STEPS)
    undisturbed, _ = trained(5, 5 * STEPS - 1)
    assert rates == pytest.approx(np.array(undisturbed[2 * STEPS - 1 :])[: len(rates)])


def test_runs_that_extend_none_keep_their_names():
    assert identifying({"seed": 0, "extend": None}) == identifying({"seed": 0})
    assert identifying({"seed": 0, "extend": "runs/a"})["extend"] == "runs/a"


@pytest.mark.slow
def test_it_ends_as_a_training_of_that_length_where_the_schedule_does(
    command, undisturbed, finished, tmp_path
):
    command.run("method=lrm", "trainer.max_epochs=1", "runs_dir=short")
    (short,) = tmp_path.glob("short/digits/lrm-*")
    run = command.run("method=lrm", f"extend={short}")
    assert "resumed at step 3" in run.output
    longer = finished("lrm")
    assert longer.record["config"]["extend"] == str(short)
    assert longer.record["metrics"] == undisturbed.record["metrics"]
    assert longer.record["epochs"] == undisturbed.record["epochs"] == 2
    assert all(torch.equal(longer.weights[k], each) for k, each in undisturbed.weights.items())

    def refusal(*words):
        return command.start("method=lrm", f"extend={short}", *words).error()

    settings = ("seed=1", "optimizer.lr=0.2", "trainer.max_epochs=3")
    differs = "it differs in optimizer.lr, seed; only trainer.max_epochs"
    assert refusal(*settings).startswith(f"error: extend={short}: {differs}")
    assert "it has 1 epoch; give a larger trainer.max_epochs" in refusal("trainer.max_epochs=1")
    assert "no run in nowhere: config.yaml is missing" in refusal("extend=nowhere")
