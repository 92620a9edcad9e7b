"""Networks around a network, through which attacks get a usable gradient."""

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
