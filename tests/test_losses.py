import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from lrm_lightning.losses import (
    distribution_pairing,
    logit_pairing,
    logit_squeezing,
    ratio_weight,
    smooth_targets,
    soft_cross_entropy,
)

DISTANCES = ("l2", "l1", "huber")
KINDS = ("cross_entropy", "jensen_shannon", "cosine")
PAIRINGS = [(logit_pairing, {"distance": distance}) for distance in DISTANCES] + [
    (distribution_pairing, {"kind": kind}) for kind in KINDS
]
PAIRING_IDS = [*DISTANCES, *KINDS]

pair_of_logits = arrays(np.float64, (2, 3, 4), elements=st.floats(-20, 20))


def normal(*shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def one_hot(y, num_classes):
    return F.one_hot(torch.tensor(y), num_classes).float()


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class TestSmoothTargets:
    def test_golden_values(self):
        targets = smooth_targets(one_hot([2, 0], 5), 5, 0.2)
        expected = [[0.05, 0.05, 0.8, 0.05, 0.05], [0.8, 0.05, 0.05, 0.05, 0.05]]
        torch.testing.assert_close(targets, torch.tensor(expected))

    def test_no_smoothing_gives_the_hard_labels_exactly(self):
        y = one_hot([1, 0, 2], 3)
        assert torch.equal(smooth_targets(y, 3, 0), y)

    @given(st.integers(2, 30).flatmap(lambda c: st.tuples(st.just(c), st.floats(0, 1 - 1 / c))))
    def test_rows_are_distributions_led_by_the_label(self, drawn):
        num_classes, smoothing = drawn
        targets = smooth_targets(torch.eye(num_classes), num_classes, smoothing)
        assert targets.sum(dim=1).numpy() == pytest.approx(1, abs=1e-5)
        assert targets.min() >= 0
        assert targets.diagonal().numpy() == pytest.approx(1 - smoothing, abs=1e-6)
        assert (targets.amax(dim=1) - targets.diagonal()).max() <= 1e-6

    @pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
    def test_the_upper_end_is_uniform(self, num_classes):
        targets = smooth_targets(one_hot([1], num_classes), num_classes, 1 - 1 / num_classes)
        torch.testing.assert_close(targets, torch.full_like(targets, 1 / num_classes))

    def test_soft_labels_mix_the_smoothed_hard_labels(self):
        first, second = one_hot([0, 3], 4).double(), one_hot([2, 3], 4).double()
        mixed = 0.3 * first + 0.7 * second
        expected = 0.3 * smooth_targets(first, 4, 0.25) + 0.7 * smooth_targets(second, 4, 0.25)
        targets = smooth_targets(mixed, 4, 0.25)
        assert targets.dtype == torch.float64
        torch.testing.assert_close(targets, expected)

    @pytest.mark.parametrize(
        ("y", "num_classes", "smoothing", "message"),
        [
            (torch.eye(10), 10, -0.1, "smoothing=-0.1"),
            (torch.eye(10), 10, 0.91, "smoothing=0.91"),
            (torch.eye(10), 10, float("nan"), "smoothing=nan"),
            (torch.eye(1), 1, 0.0, "num_classes=1"),
            (torch.tensor([0]), 10, 0.1, r"\(B, 10\)"),
            (torch.rand(2, 9), 10, 0.1, r"\(B, 10\)"),
            (torch.rand(10), 10, 0.1, r"\(B, 10\)"),
        ],
    )
    def test_rejects(self, y, num_classes, smoothing, message):
        with pytest.raises(ValueError, match=message):
            smooth_targets(y, num_classes, smoothing)


class TestSoftCrossEntropy:
    def test_against_numpy(self):
        logits = normal(6, 5)
        targets = softmax(normal(6, 5, seed=1).numpy())
        expected = -(targets * np.log(softmax(logits.numpy()))).sum(axis=1).mean()
        assert soft_cross_entropy(logits, torch.tensor(targets)).item() == pytest.approx(expected)

    def test_no_smoothing_is_the_usual_cross_entropy(self):
        logits, y = normal(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
        loss = soft_cross_entropy(logits, smooth_targets(F.one_hot(y, 5).double(), 5, 0.0))
        torch.testing.assert_close(loss, F.cross_entropy(logits, y))

    @pytest.mark.parametrize("num_classes", [2, 10])
    @pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
    def test_smoothing_is_torchs_after_conversion(self, num_classes, fraction):
        smoothing = fraction * (1 - 1 / num_classes)
        logits, y = normal(8, num_classes), torch.arange(8) % num_classes
        labels = F.one_hot(y, num_classes).double()
        label_smoothing = smoothing * num_classes / (num_classes - 1)
        torch.testing.assert_close(
            soft_cross_entropy(logits, smooth_targets(labels, num_classes, smoothing)),
            F.cross_entropy(logits, y, label_smoothing=label_smoothing),
        )

    def test_gradient(self):
        logits = normal(3, 4).requires_grad_()
        targets = torch.tensor(softmax(normal(3, 4, seed=1).numpy()))
        assert torch.autograd.gradcheck(lambda f: soft_cross_entropy(f, targets), logits)

    def test_extreme_logits(self):
        logits = torch.tensor([[1e4, -1e4, 0.0]])
        targets = smooth_targets(one_hot([1], 3), 3, 0.0)
        assert soft_cross_entropy(logits, targets).item() == 2e4

    @pytest.mark.parametrize("targets", [torch.rand(2, 4), torch.tensor([0, 1])])
    def test_rejects_other_shapes(self, targets):
        with pytest.raises(ValueError, match=r"\(2, 3\)"):
            soft_cross_entropy(torch.rand(2, 3), targets)


class TestLogitSqueezing:
    def test_golden_value(self):
        assert logit_squeezing(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item() == (25 + 1) / 2

    def test_gradient_is_twice_the_logits_over_the_batch(self):
        logits = normal(6, 5).requires_grad_()
        (gradient,) = torch.autograd.grad(logit_squeezing(logits), logits)
        torch.testing.assert_close(gradient, 2 * logits.detach() / 6)

    def test_rejects_other_shapes(self):
        with pytest.raises(ValueError, match=r"\(B, C\)"):
            logit_squeezing(torch.rand(3))


class TestLogitPairing:
    @pytest.mark.parametrize(
        ("distance", "expected"),
        [("l2", (0.25 + 9 + 0 + 1) / 2), ("l1", 4.5 / 2), ("huber", (0.125 + 2.5 + 0 + 0.5) / 2)],
    )
    def test_golden_values(self, distance, expected):
        logits = torch.tensor([[1.0, 2.0], [0.0, 5.0]])
        logits_adv = torch.tensor([[1.5, -1.0], [0.0, 4.0]])
        assert logit_pairing(logits, logits_adv, distance).item() == expected

    def test_l2_is_the_default_and_sums_over_classes(self):
        logits, logits_adv = normal(6, 5), normal(6, 5, seed=1)
        expected = 5 * F.mse_loss(logits, logits_adv)
        torch.testing.assert_close(logit_pairing(logits, logits_adv), expected)

    @given(pair_of_logits)
    def test_huber_lies_below_l1_and_half_of_l2(self, pair):
        logits, logits_adv = torch.tensor(pair)
        l2, l1, huber = (logit_pairing(logits, logits_adv, d).item() for d in DISTANCES)
        classes = logits.shape[1]
        assert huber <= min(l1, l2 / 2) + 1e-9
        # Each class lies at most 1/2 below l1.
        assert huber >= l1 - classes / 2 - 1e-9

    @given(pair_of_logits, st.sampled_from(DISTANCES), st.floats(-5, 5))
    def test_symmetric_and_blind_to_a_common_shift(self, pair, distance, shift):
        logits, logits_adv = torch.tensor(pair)
        value = logit_pairing(logits, logits_adv, distance).item()
        assert logit_pairing(logits_adv, logits, distance).item() == pytest.approx(value)
        shifted = logit_pairing(logits + shift, logits_adv + shift, distance).item()
        assert shifted == pytest.approx(value, rel=1e-9, abs=1e-9)

    def test_clean_logits_get_a_gradient_opposite_to_the_attacked(self):
        logits, logits_adv = normal(6, 5).requires_grad_(), normal(6, 5, seed=1).requires_grad_()
        for distance in DISTANCES:
            loss = logit_pairing(logits, logits_adv, distance)
            gradient, gradient_adv = torch.autograd.grad(loss, (logits, logits_adv))
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradient, -gradient_adv)


class TestDistributionPairing:
    def test_cross_entropy_has_the_clean_prediction_as_its_target(self):
        logits, logits_adv = normal(6, 5), normal(6, 5, seed=1)
        p, q = softmax(logits.numpy()), softmax(logits_adv.numpy())
        expected = -(p * np.log(q)).sum(axis=1).mean()
        assert distribution_pairing(logits, logits_adv).item() == pytest.approx(expected)

    def test_jensen_shannon_against_numpy(self):
        logits, logits_adv = normal(6, 5), normal(6, 5, seed=1)
        p, q = softmax(logits.numpy()), softmax(logits_adv.numpy())
        m = (p + q) / 2
        expected = 0.5 * (p * np.log(p / m) + q * np.log(q / m)).sum(axis=1).mean()
        loss = distribution_pairing(logits, logits_adv, "jensen_shannon")
        assert loss.item() == pytest.approx(expected)

    def test_cosine_golden_values(self):
        logits = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [0.0, 0.0]])
        logits_adv = torch.tensor([[0.0, 1.0], [-2.0, -2.0], [3.0, 6.0], [1.0, 1.0]])
        loss = distribution_pairing(logits, logits_adv, "cosine")
        assert loss.item() == pytest.approx((1 + 2 + 0 + 1) / 4)

    @given(pair_of_logits)
    def test_cross_entropy_is_least_at_equal_logits_where_it_is_the_entropy(self, pair):
        logits, logits_adv = torch.tensor(pair)
        p = softmax(pair[0])
        entropy = -(p * np.log(p)).sum(axis=1).mean()
        assert distribution_pairing(logits, logits).item() == pytest.approx(entropy, abs=1e-9)
        assert distribution_pairing(logits, logits_adv).item() >= entropy - 1e-9

    @given(pair_of_logits)
    def test_jensen_shannon_is_symmetric_and_at_most_ln_2(self, pair):
        logits, logits_adv = torch.tensor(pair)
        value = distribution_pairing(logits, logits_adv, "jensen_shannon").item()
        assert -1e-12 <= value <= math.log(2) + 1e-12
        back = distribution_pairing(logits_adv, logits, "jensen_shannon").item()
        assert back == pytest.approx(value, abs=1e-12)

    def test_jensen_shannon_reaches_ln_2_for_disjoint_predictions(self):
        logits = torch.tensor([[1e4, 0.0]])
        value = distribution_pairing(logits, logits.flip(1), "jensen_shannon").item()
        assert value == pytest.approx(math.log(2))

    @given(st.floats(0.01, 100), st.floats(0.01, 100))
    def test_cosine_ignores_the_size_of_the_logits(self, scale, scale_adv):
        logits, logits_adv = normal(3, 4), normal(3, 4, seed=1)
        value = distribution_pairing(logits, logits_adv, "cosine")
        scaled = distribution_pairing(scale * logits, scale_adv * logits_adv, "cosine")
        torch.testing.assert_close(scaled, value)

    @pytest.mark.parametrize("kind", ["cross_entropy", "jensen_shannon"])
    def test_of_distributions_ignores_a_shift_of_the_logits(self, kind):
        logits, logits_adv = normal(3, 4), normal(3, 4, seed=1)
        shift = torch.tensor([[1.0], [-2.0], [30.0]], dtype=torch.float64)
        value = distribution_pairing(logits, logits_adv, kind)
        torch.testing.assert_close(distribution_pairing(logits + shift, logits_adv, kind), value)


class TestEveryPairing:
    @pytest.mark.parametrize(("pairing", "options"), PAIRINGS[:3] + PAIRINGS[4:])
    def test_is_zero_for_equal_logits_with_no_gradient(self, pairing, options):
        logits = normal(6, 5).requires_grad_()
        loss = pairing(logits, logits.detach(), **options)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < 1e-12

    @pytest.mark.parametrize(("pairing", "options"), PAIRINGS, ids=PAIRING_IDS)
    def test_gradient(self, pairing, options):
        pair = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda a, b: pairing(a, b, **options), pair)

    @pytest.mark.parametrize(("pairing", "options"), PAIRINGS, ids=PAIRING_IDS)
    def test_is_the_mean_over_the_batch(self, pairing, options):
        logits, logits_adv = normal(4, 5), normal(4, 5, seed=1)
        rows = [pairing(logits[i : i + 1], logits_adv[i : i + 1], **options) for i in range(4)]
        torch.testing.assert_close(pairing(logits, logits_adv, **options), sum(rows) / 4)

    @pytest.mark.parametrize(("pairing", "options"), PAIRINGS, ids=PAIRING_IDS)
    @pytest.mark.parametrize("size", [0.0, 1e4])
    def test_extreme_logits_give_finite_values_and_gradients(self, pairing, options, size):
        logits = (size * torch.tensor([[1.0, -1.0, 0.5]])).requires_grad_()
        logits_adv = (size * torch.tensor([[-1.0, 1.0, 0.5]])).requires_grad_()
        loss = pairing(logits, logits_adv, **options)
        gradients = torch.autograd.grad(loss, (logits, logits_adv))
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)

    @pytest.mark.parametrize(("pairing", "options"), PAIRINGS, ids=PAIRING_IDS)
    @pytest.mark.parametrize("shape", [(3, 5), (2, 4), (1, 4), (4,)])
    def test_rejects_another_shape(self, pairing, options, shape):
        with pytest.raises(ValueError, match=r"logits has shape \(3, 4\) but logits_adv"):
            pairing(torch.rand(3, 4), torch.rand(*shape), **options)

    @pytest.mark.parametrize("pairing", [logit_pairing, distribution_pairing])
    def test_rejects_an_unknown_name(self, pairing):
        with pytest.raises(ValueError, match="'chebyshev' is unknown"):
            pairing(torch.rand(3, 4), torch.rand(3, 4), "chebyshev")


class TestRatioWeight:
    @given(st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.floats(0, 10))
    def test_makes_the_pairing_term_ratio_times_the_loss(self, loss, pairing, ratio):
        weight = ratio_weight(torch.tensor(loss), torch.tensor(pairing), ratio)
        assert weight.item() * pairing == pytest.approx(ratio * loss, rel=1e-5)

    def test_direction_of_the_ratio(self):
        assert ratio_weight(torch.tensor(2.0), torch.tensor(4.0), 0.125).item() == 0.0625

    def test_lets_no_gradient_through(self):
        loss = torch.tensor(2.0, requires_grad=True)
        x = torch.tensor(3.0, requires_grad=True)
        pairing = x.square()
        weight = ratio_weight(loss, pairing, 0.5)
        assert not weight.requires_grad
        (gradient,) = torch.autograd.grad(weight * pairing, x)
        # With the weight's own gradient the product would be constant in x and this 0.
        assert gradient.item() == pytest.approx(0.5 * 2 / 9 * 2 * 3)

    @pytest.mark.parametrize("pairing", [0.0, -1e-9, 1e-38])
    def test_is_zero_and_not_infinite_where_there_is_nothing_to_pair(self, pairing):
        assert ratio_weight(torch.tensor(100.0), torch.tensor(pairing), 8.0).item() == 0
