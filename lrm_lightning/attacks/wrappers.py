"""Networks around a network, through which attacks get a usable gradient."""

from typing import Any

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


class FiniteDifferences(nn.Module):
    """The logits of ``network`` with a gradient that is estimated from logits alone.

    The gradient of a loss is the mean over random signs v, one a pixel, of v times the loss's
    central difference along v, in which the loss is linear in the logits. It needs no gradient of
    the network's own, and ``2 * samples`` passes of it.

    Args:
        network: From pixels in [0, 1] to logits ``(B, C)``.
        samples: Random directions an image and backward pass.
        delta: How far every pixel is moved to either side, in pixels of [0, 1]; of a network with
            steps about their size, or nothing changes.

    References:
        Uesato et al. 2018, arXiv:1802.05666, section 4.2: simultaneous perturbation stochastic
        approximation (SPSA) as an attack; Ilyas et al. 2018, arXiv:1804.08598: the same with
        Gaussian directions.
    """

    def __init__(self, network: nn.Module, samples: int = 64, delta: float = 0.05) -> None:
        super().__init__()
        self.network, self.samples, self.delta = network, samples, delta

    def forward(self, x: Tensor) -> Tensor:
        return _FiniteDifferences.apply(x, self)


class _FiniteDifferences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, around: FiniteDifferences) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x)
        ctx.around = around
        return around.network(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (x,), around = ctx.saved_tensors, ctx.around
        total = torch.zeros_like(x)
        for _ in range(around.samples):
            signs = torch.randint_like(x, 2).mul(2).sub(1)
            ahead, behind = (
                around.network((x + side * around.delta * signs).clamp(0, 1)) for side in (1, -1)
            )
            slope = ((ahead - behind) * gradient).sum(dim=1) / (2 * around.delta)
            total += slope.view(-1, *(1 for _ in x.shape[1:])) * signs
        return total / around.samples, None
