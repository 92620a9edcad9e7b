"""The signs from their counts, and the verdict on networks whose answer is known."""

import numpy as np
import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.evaluation import masking
from lrm_lightning.evaluation.searches import NEVER, Search
from lrm_lightning.evaluation.strong import StrongSuite
from lrm_lightning.runs.intervals import wilson_interval

N = 500


def flags(count, of=N):
    """bool (of,) with so many true, the first ones."""
    return np.arange(of) < count


def fires(count, of, threshold):
    return wilson_interval(count, of)[0] > threshold


@pytest.mark.parametrize(("broken", "fired"), [(0, False), (9, False), (10, True), (225, True)])
def test_black_box(broken, fired):
    held = flags(225)
    sign = masking.black_box(held, held & ~flags(broken))
    assert sign.fired == fired == fires(broken, N, 0.01)
    assert sign.evidence["count"] == broken
    assert sign.evidence["of"] == N
    assert f"{broken} of the 225" in sign.explanation


def test_transfer_counts_an_image_once():
    held = flags(200)
    left = {"a": held & ~flags(6), "b": held & ~flags(12)}
    sign = masking.transfer(held, left)
    assert sign.evidence["count"] == 12
    assert sign.evidence["by_source"] == {"a": 6, "b": 12}
    assert sign.fired
    assert not masking.transfer(held, {"a": left["a"]}).fired


def test_what_cross_entropy_missed_is_counted():
    held = flags(60)
    told = masking.mistaken_loss(held, held & ~flags(45))
    assert (told.count, told.of) == (45, len(held))
    assert told.interval == wilson_interval(45, len(held))
    assert "broke 45 of the 60 images" in told.explanation
    assert masking.mistaken_loss(held, held).count == 0


def test_transfer_without_sources_says_so():
    sign = masking.transfer(flags(200), {})
    assert not sign.fired
    assert "not looked for" in sign.explanation
    assert sign.undecided == "not tried: no sources"


def test_a_search_that_could_not_show_the_sign_says_so():
    search = Search(held=np.ones((1, N), bool), needed=np.full(N, NEVER))
    assert masking.restarts(search).undecided == "not tried: one start"
    assert masking.steps(search, most=20).undecided == "not tried: 20 steps are at most 20"
    assert masking.steps(search, most=21).undecided == ""


@pytest.mark.parametrize(
    ("broken", "n", "decided"),
    [(0, 20, False), (0, 380, False), (0, 381, True), (1, 500, False), (1, 600, True)],
)
def test_an_interval_that_leaves_it_open_decides_nothing(broken, n, decided):
    """The interval of 0 of n ends below 1% from n > 99 z^2 = 380.3 on."""
    held = flags(n // 2, n)
    sign = masking.black_box(held, held & ~flags(broken, n))
    assert not sign.fired
    assert (sign.undecided == "") == decided == (wilson_interval(broken, n)[1] <= 0.01)
    assert masking.black_box(flags(n, n), flags(0, n)).undecided == ""  # what fires is seen


def test_not_masked_takes_black_box_and_a_sign_of_the_search():
    """Each sign is decided by a count of 0, or undecided for want of images."""
    searches = ("steps", "restarts", "large_eps")
    beside = ("transfer", "gradient", "zero_gradient", "unit_test", "unfinished")

    def told(*decided):
        signs = [
            masking.untried(name, "a test")
            if name not in decided
            else masking._sign(name, 0, 1000, "none")
            for name in masking.SIGNS
        ]
        return masking.verdict(signs, masking.mistaken_loss(flags(0), flags(0))).verdict

    for search in searches:
        assert told("black_box", search) == "not masked"
    assert told("black_box", *beside) == told(*searches, *beside) == told() == "undecided"


def test_where_gradients_leave_nothing_nothing_is_hidden():
    sign = masking.black_box(flags(0), flags(0))
    assert sign.explanation == "gradient attacks left no image to hide"
    assert sign.undecided == ""


def test_the_summary_counts_what_could_be_looked_for():
    held = flags(10, 500)
    signs = [masking.black_box(held, held), masking.transfer(held, {})]
    signs.append(masking.large_eps(flags(0, 500), flags(50, 500), eps=0.5))
    told = masking.verdict(signs, masking.mistaken_loss(held, held))
    assert told.verdict == "undecided"
    assert told.summary == (
        "0 of 1 signs that could be decided; transfer not tried: no sources;"
        " large eps undecided: even 0 of 50 images leave up to 7.1% open,"
        " and more than 2% is a sign"
    )


def searched(needed, restarts=()):
    needed = np.asarray(needed)
    held = [needed == NEVER]
    for broken in restarts:
        left = held[-1].copy()
        left[np.flatnonzero(left)[:broken]] = False
        held.append(left)
    return Search(np.stack(held), needed)


@pytest.mark.parametrize(("late", "fired"), [(0, False), (15, False), (25, True)])
def test_steps(late, fired):
    needed = np.full(N, NEVER)
    needed[:100] = 7
    needed[100:150] = 20
    needed[150 : 150 + late] = 21
    sign = masking.steps(searched(needed), most=200)
    assert sign.fired == fired == fires(late, N, 0.02)
    assert sign.evidence["accuracy_by_steps"] == {"20": 0.7, "200": pytest.approx(0.7 - late / N)}


@pytest.mark.parametrize(("more", "fired"), [((0, 0), False), ((9, 5), False), ((9, 20), True)])
def test_restarts(more, fired):
    needed = np.where(flags(250), 3, NEVER)
    sign = masking.restarts(searched(needed, more))
    assert sign.fired == fired == fires(sum(more), N, 0.02)
    expected = [0.5, 0.5 - more[0] / N, 0.5 - sum(more) / N]
    assert sign.evidence["accuracy_by_restarts"] == pytest.approx(expected)


def test_large_eps_counts_correct_images_alone():
    clean = flags(100)
    assert masking.zero_gradient(flags(12, 100)).fired
    assert not masking.zero_gradient(flags(8, 100)).fired  # its interval begins below 5%
    assert not masking.large_eps(~clean, clean, eps=0.5).fired
    sign = masking.large_eps(flags(8), clean, eps=0.5)
    assert sign.fired
    assert (sign.evidence["count"], sign.evidence["of"], sign.evidence["eps"]) == (8, 100, 0.5)


def test_gradient():
    cosine = np.linspace(0.19, 1, 100)
    healthy = masking.gradient(flags(0, 100), cosine)
    assert not healthy.fired
    assert healthy.evidence["count"] == 2
    assert masking.gradient(flags(12, 100), cosine[::-1]).fired
    assert masking.gradient(flags(0, 100), np.full(100, 0.1)).fired


def test_no_correct_image_is_no_sign():
    nothing = np.zeros(0)
    assert not masking.gradient(nothing.astype(bool), nothing).fired
    assert not masking.large_eps(flags(0), flags(0), eps=0.5).fired


def test_one_sign_suffices_and_all_are_kept():
    quiet = masking.black_box(flags(200), flags(200))
    loud = masking.black_box(flags(200), flags(100))
    loss = masking.mistaken_loss(flags(60), flags(60))
    assert masking.verdict([quiet, quiet], loss).verdict == "undecided"
    told = masking.verdict([quiet, loud], loss)
    assert told.verdict == "masked"
    assert [sign.fired for sign in told.signs] == [False, True]
    assert all("arXiv:" in sign.source for sign in told.signs)


class Quantized(nn.Module):
    """Rounds pixels to 33 grey values; rounding has no gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.mul(32).round() / 32)


class Scaled(nn.Module):
    """Multiplies logits, whose softmax then has no gradient in float32."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 1e4 * self.network(x)


SUITE = {
    "pgd_steps": 60,
    "pgd_restarts": 2,
    "targeted_steps": 10,
    "targets": 2,
    "square_queries": 150,
}


def verdict(network, bench):
    torch.manual_seed(0)
    outcome = StrongSuite(autoattack_iterations=10, **SUITE).run(network, bench)
    told = outcome.details["masking"]
    fired = {sign.name for sign in told.signs if sign.fired}
    accuracy = {name: float(each.mean()) for name, each in outcome.correct.items()}
    return told.verdict, fired, accuracy, told.signs


def test_undefended_network_is_not_masked(make_bench, undefended):
    told, fired, accuracy, signs = verdict(undefended, make_bench())
    assert (told, fired) == ("undecided", set()), signs  # 80 images are too few
    assert accuracy["clean"] > 0.9
    assert accuracy["pgd_ce"] < 0.1


def test_adversarially_trained_network_shows_no_sign(make_bench, robust):
    told, fired, accuracy, signs = verdict(robust, make_bench())
    # It classifies half of the 80 images correctly: too few for any sign.
    assert (told, fired) == ("undecided", set()), signs
    assert accuracy["worst"] > 0.3


def test_quantised_input_is_masked(make_bench, undefended):
    threat = PGDAttack(eps=0.12, step_size=0.03)
    told, fired, accuracy, signs = verdict(Quantized(undefended), make_bench(threat=threat))
    assert told == "masked"
    assert {"gradient", "black_box", "large_eps"} <= fired, signs
    assert accuracy["pgd_best"] > accuracy["autoattack"]


def test_scaled_logits_are_masked(make_bench, undefended):
    told, fired, accuracy, signs = verdict(Scaled(undefended), make_bench())
    assert told == "masked"
    assert {"gradient", "large_eps"} <= fired, signs
    assert accuracy["pgd_ce"] > accuracy["pgd_margin"] + 0.2


def test_another_network_gives_a_masked_one_away(make_bench, undefended, robust):
    suite = StrongSuite(autoattack_iterations=2, **SUITE | {"pgd_steps": 5})
    outcome = suite.run(Quantized(undefended), make_bench(sources={"plain": undefended}))
    (sign,) = [each for each in outcome.details["masking"].signs if each.name == "transfer"]
    assert sign.fired
    broken = outcome.correct["pgd_ce"] & ~outcome.correct["transfer_plain"]
    assert sign.evidence["by_source"] == {"plain": int(broken.sum())}
    assert not (outcome.correct["worst"] & broken).any()
