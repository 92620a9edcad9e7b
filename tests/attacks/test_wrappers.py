"""Networks around networks: whose logits and whose gradient they have."""

import pytest
import torch
from torch import nn

from lrm_lightning.attacks.wrappers import Expectation, FiniteDifferences, StraightThrough


def test_straight_through_has_the_networks_logits_and_the_surrogates_gradient():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    x = torch.rand(5, 3, 2, 2, requires_grad=True)
    rounded = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    logits = StraightThrough(rounded, linear)(x)
    assert torch.equal(logits, rounded(x))
    weights = torch.randn(5, 4)
    found, expected = (
        torch.autograd.grad((weights * each).sum(), x)[0] for each in (logits, linear(x))
    )
    assert torch.equal(found, expected)


def test_expectation_is_the_mean_of_passes():
    class Drawn(nn.Module):
        def forward(self, x):
            return x.flatten(1) * torch.rand(())

    x = torch.rand(5, 3, 2, 2, requires_grad=True)
    torch.manual_seed(0)
    factor = torch.stack([torch.rand(()) for _ in range(7)]).mean()
    torch.manual_seed(0)
    logits = Expectation(Drawn(), 7)(x)
    torch.testing.assert_close(logits, factor * x.flatten(1))
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    torch.testing.assert_close(gradient, factor.expand_as(x))


class Quadratic(nn.Module):
    """Logits that are quadratic in the pixels: central differences of them are exact."""

    def __init__(self):
        super().__init__()
        self.matrices = nn.Parameter(torch.randn(4, 12, 12))
        self.linear = nn.Linear(12, 4)

    def forward(self, x):
        x = x.flatten(1)
        return torch.einsum("bi,cij,bj->bc", x, self.matrices, x) + self.linear(x)


def _gradients(network, x, samples):
    """The estimate of a loss's gradient, and the true one."""
    weights = torch.randn(len(x), 4)
    return (
        torch.autograd.grad((weights * each(x)).sum(), x)[0].flatten(1)
        for each in (FiniteDifferences(network, samples=samples), network)
    )


def test_finite_differences_tend_to_the_gradient():
    torch.manual_seed(0)
    network = Quadratic()
    x = (0.1 + 0.8 * torch.rand(5, 3, 2, 2)).requires_grad_()
    assert torch.equal(FiniteDifferences(network)(x), network(x))
    for samples in (100, 10000):
        found, true = _gradients(network, x, samples)
        error = (found - true).norm(dim=1) / true.norm(dim=1)
        # The signs of d pixels: each of the other d - 1 disturbs one as much as chance has it.
        assert float(error.square().mean().sqrt()) == pytest.approx((11 / samples) ** 0.5, rel=0.3)


def test_finite_differences_are_the_slope_along_the_signs():
    torch.manual_seed(0)
    network = Quadratic()
    x = (0.1 + 0.8 * torch.rand(5, 3, 2, 2)).requires_grad_()
    found, true = _gradients(network, x, 1)
    signs = found.sign()  # those of the direction, or all of them turned
    torch.testing.assert_close(found.abs(), (true * signs).sum(dim=1, keepdim=True).expand(5, 12))
