"""The state of a model while it is attacked or predicts, and its restoration afterwards."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.inputs import OVERWRITES
from lrm_lightning.checks import check_choice

BN_MODES = ("eval", "train")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def attack_mode(model: nn.Module, bn_mode: str = "eval") -> Generator[None]:
    """Freeze ``model`` and let gradients flow to its input; restore everything on the way out.

    Inside, no parameter requires a gradient, gradients are enabled and inference mode is left, so
    an attack works within a ``Trainer``'s validation too. On the way out, after an exception as
    well, each parameter and each submodule has its own flags back. Nothing else of the model
    changes: not ``.grad``, not the running statistics.

    Args:
        model: What is attacked.
        bn_mode: ``"eval"``: all submodules in eval mode. ``"train"``: batch norm normalises with
            the statistics of the batch it sees, and does not record them; everything else, dropout
            included, stays in eval mode, so that the attack faces one fixed function.

    Raises:
        ValueError: If ``bn_mode`` is unknown.
    """
    check_choice("bn_mode", bn_mode, BN_MODES)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    tracking = [
        (module, module.track_running_stats)
        for module in model.modules()
        if bn_mode == "train" and isinstance(module, BATCH_NORMS)
    ]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        # The flag, not train(): a network may override train(), and each flag is restored singly.
        for module, _ in modes:
            module.training = False
        for module, _ in tracking:
            module.training = True
            module.track_running_stats = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, tracked in tracking:
            module.track_running_stats = tracked
        for module, training in modes:
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


def predict(network: nn.Module, x: Tensor, *, classes: int | None = None) -> Tensor:
    """Finite logits of a batch of pixels in [0, 1], shape ``(B, classes)``, without a graph."""
    low, high = x.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"x must lie in [0, 1] and hold no NaN, but goes from {low:g} to {high:g}")
    with attack_mode(network), torch.no_grad():
        x = x.clone() if x.is_inference() else x  # such a tensor has no version
        version = x._version
        logits = network(x)
    if x._version != version:
        raise ValueError(OVERWRITES)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        got = f"a {type(logits).__name__}; say which part of it they are: output=0, output=logits"
        if isinstance(logits, Tensor):
            got = f"shape {tuple(logits.shape)}"
        raise ValueError(f"the model must return logits of shape ({len(x)}, C), not {got}")
    if classes is not None and logits.shape[1] != classes:
        raise ValueError(f"the model knows {logits.shape[1]} classes, but the data have {classes}")
    if not logits.isfinite().all():
        raise ValueError("the model returned logits that are NaN or infinite")
    return logits


@contextmanager
def exact_arithmetic() -> Generator[None]:
    """Full float32 and repeatable kernels, on a GPU too: less rounds small gradients away.

    Inside, autocast is off, matrix products and convolutions make no use of TF32, and cuDNN chooses
    deterministic kernels without trying which is fastest.
    """
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
