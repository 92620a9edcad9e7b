"""The one switch between the plain computation of attacks and the fast one."""

import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_choice
from lrm_lightning.models.folding import folded

# "auto" is "fast" where it was seen to give what "reference" gives: on CPUs, so far.
ENGINES = ("auto", "reference", "fast")


# What a network may compute in where it is folded; half precision loses small gradients.
FOLDABLE = (torch.float64, torch.float32, torch.bfloat16)


def attack_view(network: nn.Module, engine: str = "auto") -> nn.Module:
    """What attacks look at instead of ``network``, for as long as its weights stand still.

    Only for attacks on the network in eval mode.

    Args:
        network: Takes pixels in [0, 1] and returns logits.
        engine: ``"reference"`` is the network itself; ``"fast"`` computes the same logits and input
            gradients, to rounding, with batch norm folded away; ``"auto"`` is fast on a CPU.

    Returns:
        The fast one with copies of the weights: ask again when they have changed. Under autocast to
        bfloat16 its convolutions are in bfloat16, as the network's would be. The network itself
        where ``engine`` says so, and where it can't be folded: one that isn't ours, that has hooks
        or lower precision than float32, or under autocast to float16.

    Raises:
        ValueError: If ``engine`` is unknown.
    """
    check_choice("engine", engine, ENGINES)
    weights = next(network.parameters(), None)
    if engine == "reference" or weights is None or not _foldable(network, weights):
        return network
    if engine == "auto" and weights.device.type != "cpu":
        return network
    # Tensors made in inference mode, as in a foreign Trainer's validation, let no gradient through.
    with torch.inference_mode(False), torch.no_grad():
        return folded(network, _dtype(weights))


def _foldable(network: nn.Module, weights: Tensor) -> bool:
    precise = weights.dtype in (torch.float32, torch.float64)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    return precise and not hooked and _dtype(weights) in FOLDABLE


def _dtype(weights: Tensor) -> torch.dtype:
    """What convolutions compute in here."""
    device = weights.device.type
    if not torch.is_autocast_enabled(device) or weights.dtype == torch.float64:
        return weights.dtype  # autocast leaves double precision alone
    return torch.get_autocast_dtype(device)
