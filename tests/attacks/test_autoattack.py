"""The adapter gives what the official code gives, and leaves no trace."""

import logging
import sys
from itertools import pairwise

import pytest
import torch
from pyautoattack import AutoAttack
from torch import nn

from lrm_lightning.attacks.autoattack import STANDARD, autoattack

EPS = {"linf": 0.03, "l2": 0.3}
NORMS = {"linf": "Linf", "l2": "L2"}
QUICK = {"iterations": 4, "queries": 30}


class Changed(nn.Module):
    """The function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def official(network, norm, seed=0, *, iterations=4, queries=30):
    attack = AutoAttack(network, norm=NORMS[norm], eps=EPS[norm], seed=seed, version="standard")
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = 3
    attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = iterations
    attack.square.n_queries = queries
    return attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("batch_size", [48, 11])
def test_equals_the_official_code_bit_for_bit(network, batch, norm, batch_size, caplog):
    x, y = batch
    caplog.set_level(logging.CRITICAL, "auto-attack")
    x_adv, y_adv = official(network, norm).run_standard_evaluation(x, y, batch_size=batch_size)
    found = autoattack(network, x, y, eps=EPS[norm], norm=norm, batch_size=batch_size, **QUICK)
    assert torch.equal(found.x_adv, x_adv)
    assert found.y_adv.tolist() == y_adv.tolist()
    assert (found.correct["square"] == (y_adv == y).numpy()).all()
    names = ["clean", *STANDARD]
    assert list(found.correct) == names
    for before, after in pairwise(names):  # each attack sees what the former left
        assert not (found.correct[after] & ~found.correct[before]).any()
    # or else there was nothing to compare
    counts = [found.correct[name].sum() for name in names]
    assert counts[0] > counts[1] >= counts[-1] > 0


def test_images_in_any_layout(network, batch):
    x, y = batch
    expected = autoattack(network, x, y, eps=0.03, **QUICK)
    assert expected.correct["apgd-ce"].any()  # the next one looks at the gradient
    found = autoattack(network, x.to(memory_format=torch.channels_last), y, eps=0.03, **QUICK)
    assert torch.equal(found.x_adv, expected.x_adv)


def test_interrupted_anywhere_it_finds_the_same(network, batch):
    x, y = batch
    kept, calls = {}, []

    def each(pieces):
        for name in reversed(pieces):
            if name not in kept:
                if len(calls) == stop:
                    raise KeyboardInterrupt
                calls.append(name)
                kept[name] = pieces[name]()
            yield name, kept[name]

    undisturbed = autoattack(network, x, y, eps=0.03, batch_size=9, **QUICK)
    for stop in (0, 2, 5, 6):
        with pytest.raises(KeyboardInterrupt):
            autoattack(network, x, y, eps=0.03, batch_size=9, each=each, **QUICK)
        torch.manual_seed(stop)
    stop = -1
    resumed = autoattack(network, x, y, eps=0.03, batch_size=9, each=each, **QUICK)
    assert len(set(calls)) == len(calls) == len(kept)
    assert torch.equal(resumed.x_adv, undisturbed.x_adv)
    assert all(
        (left == undisturbed.correct[attack]).all() for attack, left in resumed.correct.items()
    )


def test_leaves_no_trace(network, batch):
    def trace(frame, event, argument):
        return None

    network.train()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = torch.random.get_rng_state()
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        autoattack(network, *batch, eps=0.1, **QUICK)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(previous)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(module.training for module in network.modules())
    for parameter in network.parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_works_in_inference_mode(network, batch):
    x, y = batch
    expected = autoattack(network, x, y, eps=0.1, **QUICK)
    with torch.inference_mode():
        found = autoattack(network, x.clone(), y.clone(), eps=0.1, **QUICK)
    assert torch.equal(found.x_adv, expected.x_adv)


@pytest.mark.parametrize(
    "claimed",
    [
        lambda x: torch.full_like(x, torch.nan),
        lambda x: (x + 0.2 * (1 - 2 * (x > 0.5).float())).clamp(0, 1),
    ],
    ids=["NaN", "outside the ball"],
)
def test_what_is_no_image_of_the_ball_is_no_adversarial_example(
    network, batch, claimed, monkeypatch
):
    def broken(self, x, y, **settings):
        return claimed(x), (y + 1) % 4

    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", broken)
    found = autoattack(network, *batch, eps=0.1)
    assert (found.correct["square"] == found.correct["clean"]).all()
    assert torch.equal(found.x_adv, batch[0])


def test_tells_of_probabilities_without_printing(network, batch, capfd):
    found = autoattack(Changed(lambda x: network(x).softmax(dim=1)), *batch, eps=0.1, **QUICK)
    assert "the model returns probabilities, not logits" in found.flags
    assert capfd.readouterr() == ("", "")


def test_one_dynamic_model_does_not_mark_the_next(network, batch):
    class Dynamic(nn.Module):
        def forward(self, x):
            return self.grad(x)

        def grad(self, x):  # a name that pyautoattack watches for
            return network(x)

    dynamic = autoattack(Dynamic(), *batch, eps=0.1, **QUICK)
    static = autoattack(network, *batch, eps=0.1, **QUICK)
    assert "the model differentiates or optimises while it predicts" in dynamic.flags
    assert static.flags == []


def test_nothing_left_to_attack(network, batch):
    x, _ = batch
    with torch.no_grad():
        wrong = (network(x).argmax(dim=1) + 1) % 4
    found = autoattack(network, x, wrong, eps=0.1, **QUICK)
    assert not any(each.any() for each in found.correct.values())
    assert torch.equal(found.x_adv, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0}, "eps=0 must be"),
        ({"norm": "l1"}, "norm='l1' is unknown"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"batch_size": 0}, "batch_size=0 must be"),
    ],
)
def test_wrong_setting(network, batch, change, message):
    with pytest.raises(ValueError, match=message):
        autoattack(network, *batch, **{"eps": 0.1} | change)


def test_wrong_images_and_models(network, batch):
    x, y = batch
    for wrong in (x + 1, x - 0.5, x * torch.nan):
        with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
            autoattack(network, wrong, y, eps=0.1)
    with pytest.raises(ValueError, match="float32"):
        autoattack(network, x.double(), y, eps=0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        autoattack(Changed(lambda x: network(x) * torch.nan), x, y, eps=0.1)
    with pytest.raises(ValueError, match="at least 4 classes"):
        autoattack(Changed(lambda x: network(x)[:, :2]), x, y % 2, eps=0.1)
