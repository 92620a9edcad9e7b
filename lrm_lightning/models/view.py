"""The one switch between the ways to compute a network that is attacked."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_choice
from lrm_lightning.errors import UserError, text_of
from lrm_lightning.models import preact_resnet, resnet

# "auto" is "fast" where it was seen to be faster with the same results: on CPUs, so far.
ENGINES = ("auto", "reference", "fast", "compile")
# What torch.compile is given. On a GPU this mode records the launches of all kernels as one graph.
COMPILE: dict[str, Any] = {"mode": "reduce-overhead"}
# Half precision loses small gradients, so that nothing is frozen in it.
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
FAMILIES: dict[type[nn.Module], Callable[[Any, torch.dtype], nn.Module]] = {
    resnet.ResNet: resnet.frozen,
    preact_resnet.PreActResNet: preact_resnet.frozen,
    preact_resnet.WideResNet: preact_resnet.frozen,
}


def attack_view(network: nn.Module, engine: str = "auto") -> nn.Module:
    """The network, or its view, a fast copy with constant weights, for attacks in eval mode.

    Args:
        network: Takes pixels in [0, 1] and returns logits.
        engine: ``"reference"`` is the network itself; ``"fast"`` is its view, which computes the
            same logits and gradients of the images, to rounding; ``"compile"`` is the network
            through :func:`torch.compile`; ``"auto"`` is the view on a CPU.

    Returns:
        The view copies the weights: ask for a new one when they have changed. Under autocast to
        bfloat16 its convolutions are in bfloat16, as the network's are. Networks without a view are
        returned themselves: other classes than those of ``FAMILIES``, their subclasses included,
        those that have hooks or weights in less than float32, and all under autocast to float16.

    Raises:
        ValueError: If ``engine`` is unknown.
    """
    check_choice("engine", engine, ENGINES)
    if engine == "compile":
        return CompiledNetwork(network)
    frozen = FAMILIES.get(type(network))
    if engine == "reference" or frozen is None:
        return network
    weights = next(network.parameters())
    if engine == "auto" and weights.device.type != "cpu":
        return network
    dtype = _computed_in(weights)
    precise = weights.dtype in (torch.float32, torch.float64) and dtype in DTYPES
    # Torch has no public way to ask for hooks.
    if not precise or any(m._forward_hooks or m._forward_pre_hooks for m in network.modules()):
        return network
    # Tensors made in inference mode, as in a foreign Trainer's validation, let no gradient through.
    with torch.inference_mode(False), torch.no_grad():
        return frozen(network, dtype)


class CompiledNetwork(nn.Module):
    """A network through :func:`torch.compile`, which compiles it once however often this is made.

    Raises:
        UserError: In its forward, if torch can't compile the network on this machine.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = torch.compile(network, **COMPILE)

    def forward(self, x: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException  # a second, for those who compile

        # Graphs on a GPU write each result over the one before, which an attack may still hold: the
        # logits are copied, and the product makes the gradient of x a tensor of its own, too.
        torch.compiler.cudagraph_mark_step_begin()
        try:
            return self.network(x * 1).clone()
        except TorchDynamoException as error:
            what = text_of(error)[:200]
            mend = "use attack.engine=auto"
            raise UserError(f"attack.engine=compile: {what}; {mend}") from error


def _computed_in(weights: Tensor) -> torch.dtype:
    device = weights.device.type
    if not torch.is_autocast_enabled(device) or weights.dtype == torch.float64:
        return weights.dtype  # autocast leaves double precision alone
    return torch.get_autocast_dtype(device)
