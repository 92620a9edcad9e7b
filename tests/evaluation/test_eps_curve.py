"""Accuracy by eps: a network whose smallest eps is known, the record, and what is shown of it."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.bench import Bench, Images
from lrm_lightning.evaluation.eps_curve import EpsCurveSuite
from lrm_lightning.evaluation.tables import print_evaluations
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.records import EpsCurve

N = 60


@pytest.fixture
def linear():
    """A linear network with two classes, and images of a bench that it mostly gets right."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.3 * (torch.rand(N, 3, 4, 4, generator=generator) - 0.5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(2, 48, generator=generator))
        network[1].bias.zero_()
        gap = network(x)
        network[1].bias[1] = (gap[:, 0] - gap[:, 1]).median() + 0.01
        y = network(x).argmax(dim=1)
    y[::10] = 1 - y[::10]
    return network, Images(x, y, np.arange(N), np.arange(8))


def smallest(network, images, order):
    """The closed form: the margin over the dual norm of the weights' difference, 0 if wrong."""
    with torch.no_grad():
        logits = network(images.x)
        margin = logits.gather(1, images.y[:, None]) - logits.gather(1, 1 - images.y[:, None])
        weight = network[1].weight[0] - network[1].weight[1]
    return (margin[:, 0] / torch.linalg.vector_norm(weight, ord=order)).clamp(min=0).numpy()


def test_in_l_inf_it_is_the_next_radius_above_the_closed_form(linear):
    network, images = linear
    bench = Bench(images, PGDAttack(eps=8 / 255, step_size=0.01), batch_size=25)
    correct, details, arrays, _ = EpsCurveSuite(losses=["cross_entropy"]).run(network, bench)
    exact = smallest(network, images, 1)
    curve = details["eps_curve"]
    radii = np.arange(17) / 255
    np.testing.assert_allclose(curve["eps"], radii)
    grid = np.array([*curve["eps"], 0.5])
    expected = np.where(exact > 0, grid[np.searchsorted(grid, exact)], 0)
    np.testing.assert_array_equal(arrays["min_eps"], expected)
    assert len(set(expected)) > 5
    np.testing.assert_allclose(curve["accuracy"], [(exact > eps).mean() for eps in radii])
    counts = [int((exact > eps).sum()) for eps in radii]
    assert curve["intervals"] == [wilson_interval(count, N) for count in counts]
    assert correct["clean"].mean() == curve["accuracy"][0] == 0.9
    assert not correct["large_eps"].any()
    assert not curve["large_eps"].fired
    EpsCurve.model_validate(curve)


def test_in_l2_it_is_above_the_closed_form_and_near_it(linear):
    network, images = linear
    exact = smallest(network, images, 2)
    unit = float(np.quantile(exact[exact > 0], 0.9)) / 12
    bench = Bench(images, PGDAttack(norm="l2", eps=8 * unit, step_size=0.01))
    _, details, arrays, _ = EpsCurveSuite(losses=["margin"]).run(network, bench)
    radii = np.array(details["eps_curve"]["eps"])
    np.testing.assert_allclose(radii, unit * np.arange(17))
    found, far = arrays["min_eps"], 0.5 * 48**0.5
    assert (found >= exact).all()
    grid = np.array([*radii, far])
    # The last steps along the ball turn towards the weights, but not quite.
    assert (found <= grid[np.searchsorted(grid, 1.05 * exact)]).all()


class Quantised(nn.Module):
    """Its gradient with respect to the pixels is 0."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x > 0.5).float() + 0 * x)


def test_what_a_large_eps_leaves_is_a_sign_of_masking(linear):
    network, images = linear
    masked = Quantised(network)
    y = masked(images.x).argmax(dim=1)
    bench = Bench(images._replace(y=y), PGDAttack(eps=0.01, step_size=0.01, random_start=False))
    correct, details, _, _ = EpsCurveSuite(eps=[0.01, 0.02], steps=3).run(masked, bench)
    assert correct["large_eps"].all()
    assert details["eps_curve"]["accuracy"] == [1.0, 1.0, 1.0]
    sign = details["eps_curve"]["large_eps"]
    assert sign.fired
    assert "left 60 of 60 images correct at eps = 0.5" in sign.explanation


def test_an_image_broken_at_one_radius_is_not_attacked_at_a_larger_one(linear, monkeypatch):
    network, images = linear
    tried = {}
    original = PGDAttack.steps_to_break

    def counted(self, model, x, y, **more):
        tried[self.eps] = tried.get(self.eps, 0) + len(x)
        assert self.step_size == pytest.approx(2.5 * self.eps / 7)
        return original(self, model, x, y, **more)

    monkeypatch.setattr(PGDAttack, "steps_to_break", counted)
    bench = Bench(images, PGDAttack(eps=8 / 255, step_size=0.01))
    _, details, _, _ = EpsCurveSuite(steps=7, losses=["margin"]).run(network, bench)
    left = [round(N * each) for each in details["eps_curve"]["accuracy"]]
    assert list(tried.values()) == [each for each in left if each]


def test_it_is_recorded_and_shown(evaluated, make_run, capsys):
    folder = make_run()
    settings = (f"runs=[{folder}]", "suite=eps_curve", "n_images=24", "suite.steps=4")
    (record,) = evaluated(*settings, "suite.eps=[1/255,0.02,0.1]")
    path = folder / f"evaluations/eps_curve-{record.evaluation_id}.json"
    saved = json.loads(path.read_text())
    assert saved["eps_curve"]["eps"] == [0.0, 1 / 255, 0.02, 0.1]
    with np.load(path.with_suffix(".npz")) as arrays:
        least = arrays["min_eps"]
    for eps, share in zip(saved["eps_curve"]["eps"], saved["eps_curve"]["accuracy"], strict=True):
        assert share == (least > eps).mean()
    assert saved["metrics"]["clean"] == saved["eps_curve"]["accuracy"][0]
    assert saved["settings"]["eps_curve"]["step_size"] == "2.5 eps / steps"
    assert saved["settings"]["eps_curve"]["losses"] == ["cross_entropy", "margin"]
    capsys.readouterr()
    print_evaluations([record])
    told = capsys.readouterr().out
    clean = f"{100 * record.metrics['clean']:.1f}"
    assert f"accuracy % by eps in L-inf: {clean} at 0, " in told
    assert " at 1/255, " in told
    assert evaluated(*settings, "suite.eps=[1/255,0.02,0.1]") == [record]
    assert "already evaluated" in capsys.readouterr().out
    (other,) = evaluated(*settings, "suite.eps=[0.02]", "attack_loss=dlr")
    assert other.settings["eps_curve"]["losses"] == ["cross_entropy", "margin", "dlr"]
    assert other.settings["eps_curve"]["eps"] == [0.02]
    again = (
        f"runs=[{folder}]",
        "suite=eps_curve",
        "n_images=24",
        "suite.steps=3",
        "suite.eps=[0.02]",
    )
    (twice,) = evaluated(*again, "attack_loss=margin")
    (once,) = evaluated(*again)
    assert twice.settings["eps_curve"]["losses"] == ["cross_entropy", "margin"]
    assert twice.eps_curve == once.eps_curve


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("suite.eps=[0.2,0.1]", r"suite.eps=0.1 must be a number > 0.2"),
        ("suite.eps=[0,0.1]", r"suite.eps=0 must be a number > 0 "),
        ("suite.eps=[0.6]", "suite.eps=0.6 must be below suite.large_eps=0.5"),
        ("suite.eps=0.1", "suite.eps=0.1 must be a list"),
        ("suite.losses=[margn]", "suite.losses='margn' is unknown; choose one of: cross_entropy"),
        ("suite.losses=[]", r"suite.losses=\[\] leaves PGD nothing to raise"),
        ("suite.steps=0", "suite.steps=0 must be a whole number"),
        ("keep_images=true", "keep_images is of suite=paper and suite=strong, not of suite=eps_"),
    ],
)
def test_wrong_values(evaluated, make_run, override, message):
    with pytest.raises(UserError, match=message):
        evaluated(f"runs=[{make_run()}]", "suite=eps_curve", override)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": [0.9, 0.5, 0.6]}, "the accuracy must not"),
        ({"eps": [0.0, 0.2, 0.1]}, "eps must rise"),
        ({"accuracy": [0.9, 0.5]}, "one accuracy and one interval an eps"),
    ],
)
def test_a_curve_that_cannot_be(change, message):
    sign = {"name": "large_eps", "fired": False}
    good = {"eps": [0.0, 0.1, 0.2], "accuracy": [0.9, 0.5, 0.5], "large_eps": sign}
    good["intervals"] = [(0.0, 1.0)] * 3
    EpsCurve.model_validate(good)
    with pytest.raises(ValueError, match=message):
        EpsCurve.model_validate(good | change)
