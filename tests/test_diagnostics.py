import numpy as np
import pytest
import torch

from lrm_lightning.diagnostics import (
    LogitStatistics,
    PairingDiagnostics,
    pairing_assumption,
    pairing_gradient,
    pairing_scale_gradient,
)
from lrm_lightning.losses import logit_pairing

BATCHES = (5, 1, 8)


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 1 + 3 * torch.randn(*shape, generator=generator, dtype=dtype)


def numpy_statistics(logits):
    return {
        "variance": logits.var(),
        "range": np.ptp(logits, axis=1).mean(),
        "norm": np.sqrt((logits**2).sum(axis=1)).mean(),
    }


def values(results):
    return {name: value.item() for name, value in results.items()}


class TestLogitStatistics:
    def test_golden_values(self):
        metric = LogitStatistics()
        metric.update(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        expected = {"variance": 2.5, "range": 1.0, "norm": 3.0}
        assert values(metric.compute()) == pytest.approx(expected)

    def test_metric_over_uneven_batches_is_that_of_all_logits(self):
        logits = normal(sum(BATCHES), 10, dtype=torch.float32)
        metric = LogitStatistics()
        for batch in logits.split(BATCHES):
            metric.update(batch)
        expected = numpy_statistics(logits.double().numpy())
        assert values(metric.compute()) == pytest.approx(expected, rel=1e-12)

    def test_metric_keeps_digits_under_a_large_common_offset(self):
        logits = normal(1000, 10) + 1e5
        metric = LogitStatistics()
        metric.update(logits)
        assert metric.compute()["variance"].item() == pytest.approx(logits.numpy().var(), rel=1e-4)

    def test_equal_logits_have_no_variance_and_never_a_negative_one(self):
        for value in torch.linspace(0, 100, 50, dtype=torch.float64):
            metric = LogitStatistics()
            metric.update(value.expand(7, 3))
            assert 0 <= metric.compute()["variance"].item() < 1e-9


class TestPairingAssumption:
    def test_counts_pairs_by_hand(self):
        logits = torch.tensor([[5.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
        logits_adv = torch.tensor([[4.0, 2.0, 0.0], [2.0, 1.0, 3.0]])
        # Image 1, label 0: met, met, not. Image 2, label 1: equal so not, met, met.
        assert pairing_assumption(logits, logits_adv, torch.tensor([0, 1])).item() == 4 / 6

    def test_ends_of_the_scale(self):
        logits, y = normal(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
        wanted = 2.0 * torch.nn.functional.one_hot(y, 4) - 1
        assert pairing_assumption(logits, logits - wanted, y).item() == 1
        assert pairing_assumption(logits, logits + wanted, y).item() == 0
        assert pairing_assumption(logits, logits, y).item() == 0

    def test_when_met_pairing_lowers_the_label_and_lifts_the_others(self):
        logits, y = normal(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
        label = torch.nn.functional.one_hot(y, 4).bool()
        logits_adv = torch.where(label, logits - 0.5, logits + 0.5)
        step = -pairing_gradient(logits, logits_adv)
        assert (step[label] < 0).all()
        assert (step[~label] > 0).all()


class TestPairingGradients:
    def test_eq_4_and_5_against_autograd(self):
        logits, logits_adv = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
        gradients = torch.autograd.grad(6 * logit_pairing(logits, logits_adv), (logits, logits_adv))
        found = pairing_gradient(logits.detach(), logits_adv.detach())
        torch.testing.assert_close(found, gradients[0])
        torch.testing.assert_close(-found, gradients[1])

    @pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
    def test_eq_7_against_autograd(self, scale):
        logits, logits_adv = normal(6, 4), normal(6, 4, seed=1)
        gamma = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(logit_pairing(gamma * logits, gamma * logits_adv), gamma)
        found = pairing_scale_gradient(logits, logits_adv, scale)
        torch.testing.assert_close(found, expected)
        assert found > 0

    def test_eq_7_is_the_gradient_along_the_logits_themselves(self):
        logits, logits_adv = normal(6, 4), normal(6, 4, seed=1)
        along = pairing_gradient(logits, logits_adv) * (logits - logits_adv)
        found = pairing_scale_gradient(logits, logits_adv)
        torch.testing.assert_close(found, along.sum(dim=1).mean())


class TestPairingDiagnostics:
    def test_metric_over_uneven_batches_is_that_of_all_pairs(self):
        n = sum(BATCHES)
        logits, logits_adv = normal(n, 4), normal(n, 4, seed=1)
        y = torch.arange(n) % 4
        metric = PairingDiagnostics()
        for a, b, label in zip(*(t.split(BATCHES) for t in (logits, logits_adv, y)), strict=True):
            metric.update(a, b, label)
        moved = (logits_adv - logits).numpy()
        met = np.where(np.eye(4, dtype=bool)[y.numpy()], moved < 0, moved > 0)
        expected = {
            "assumption": met.mean(),
            "scale_gradient": 2 * (moved**2).sum(axis=1).mean(),
        }
        assert values(metric.compute()) == pytest.approx(expected, rel=1e-12)

    def test_reset_forgets(self):
        metric = PairingDiagnostics()
        logits, y = normal(3, 4), torch.tensor([0, 1, 2])
        metric.update(logits, logits + 1, y)
        metric.reset()
        metric.update(logits, logits, y)
        assert values(metric.compute()) == {"assumption": 0, "scale_gradient": 0}


def feed(metric, rows):
    logits, logits_adv, y = normal(9, 4), normal(9, 4, seed=1), torch.arange(9) % 4
    arguments = (logits, logits_adv, y) if isinstance(metric, PairingDiagnostics) else (logits,)
    metric.update(*(argument[rows] for argument in arguments))
    return metric


@pytest.mark.parametrize("kind", [LogitStatistics, PairingDiagnostics])
class TestBothMetrics:
    def test_states_of_two_processes_add_up(self, kind):
        first, second, both = (
            feed(kind(), rows) for rows in (slice(0, 7), slice(7, 9), slice(0, 9))
        )
        for name, reduction in first._reductions.items():
            setattr(
                first, name, reduction(torch.stack([getattr(first, name), getattr(second, name)]))
            )
        assert values(first.compute()) == pytest.approx(values(both.compute()), rel=1e-12)

    def test_stays_in_float64_in_a_half_precision_module(self, kind):
        module = torch.nn.ModuleList([kind()]).half()
        found = feed(module[0], slice(0, 9)).compute()
        assert {value.dtype for value in found.values()} == {torch.float64}

    def test_keeps_no_graph(self, kind):
        logits = normal(3, 4).requires_grad_()
        metric = kind()
        with torch.enable_grad():
            if kind is LogitStatistics:
                metric(2 * logits)
            else:
                metric(2 * logits, 3 * logits, torch.tensor([0, 1, 2]))
        assert not any(getattr(metric, name).requires_grad for name in metric._defaults)


@pytest.mark.parametrize("shape", [(3,), (0, 4)])
def test_rejects_other_shapes(shape):
    with pytest.raises(ValueError, match="B >= 1"):
        LogitStatistics().update(torch.zeros(shape))


@pytest.mark.parametrize("function", [pairing_gradient, pairing_scale_gradient])
def test_pairs_must_have_one_shape(function):
    with pytest.raises(ValueError, match="the same"):
        function(torch.rand(3, 4), torch.rand(1, 4))


def test_labels_must_fit():
    with pytest.raises(ValueError, match=r"y has shape \(2,\)"):
        pairing_assumption(torch.rand(3, 4), torch.rand(3, 4), torch.tensor([0, 1]))
