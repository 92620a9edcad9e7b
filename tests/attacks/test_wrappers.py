"""Networks around networks: whose logits and whose gradient they have."""

import torch
from torch import nn

from lrm_lightning.attacks.wrappers import Expectation, StraightThrough


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
