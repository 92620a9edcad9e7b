"""Networks around a network, through which attacks get a usable gradient."""

import torch
from torch import Tensor, nn


class StraightThrough(nn.Module):
    """The logits of ``network`` with the gradient of ``surrogate``, a differentiable stand-in.

    Both take pixels in [0, 1] and return logits ``(B, C)``. The forward pass computes both.

    References:
        Athalye et al. 2018, arXiv:1802.00420, section 4.1.2: backward pass differentiable
        approximation (BPDA).
    """

    def __init__(self, network: nn.Module, surrogate: nn.Module) -> None:
        super().__init__()
        self.network, self.surrogate = network, surrogate

    def forward(self, x: Tensor) -> Tensor:
        logits = self.surrogate(x)
        # The difference is exactly 0, so that not a bit of the network's own logits changes.
        return self.network(x.detach()).detach() + (logits - logits.detach())


class Expectation(nn.Module):
    """The mean of so many ``passes`` of a random ``network``: its logits, and so its gradient.

    It needs the memory of all passes at once.

    References:
        Athalye et al. 2018, arXiv:1707.07397 (expectation over transformations), and
        arXiv:1802.00420, section 4.2.
    """

    def __init__(self, network: nn.Module, passes: int) -> None:
        super().__init__()
        self.network, self.passes = network, passes

    def forward(self, x: Tensor) -> Tensor:
        # One after another: a network may draw one random number for a whole batch.
        return torch.stack([self.network(x) for _ in range(self.passes)]).mean(dim=0)
