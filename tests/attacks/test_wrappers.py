"""Networks around networks: whose logits and whose gradient they have."""

import torch
from torch import nn

from lrm_lightning.attacks.wrappers import StraightThrough


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
