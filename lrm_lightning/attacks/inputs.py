"""What an attack accepts; each mistake is one line that says what is wrong and where."""

import torch
from torch import Tensor

from lrm_lightning.attacks.context import BN_MODES
from lrm_lightning.attacks.norms import NORMS
from lrm_lightning.attacks.objectives import OBJECTIVES
from lrm_lightning.checks import check_choice, check_integer, check_number
from lrm_lightning.errors import NotFiniteError

KEEPS = ("final", "best")
NOT_FINITE = "the model returned logits that are NaN or infinite"


def check_budget(*, norm: str, eps: float, step_size: float, loss: str, bn_mode: str) -> None:
    """Raise :class:`ValueError` unless the settings that every attack has are in range."""
    check_choice("norm", norm, NORMS)
    check_number("eps", eps, above=0, why="radius of the ball, in pixels of [0, 1]")
    check_number("step_size", step_size, above=0)
    check_choice("loss", loss, OBJECTIVES)
    check_choice("bn_mode", bn_mode, BN_MODES)


def check_search(*, steps: int, restarts: int, random_start: bool, keep: str) -> None:
    """Raise :class:`ValueError` unless the settings of a search over restarts are in range."""
    check_integer("steps", steps, low=1)
    check_integer("restarts", restarts, low=1)
    check_choice("keep", keep, KEEPS)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} needs random_start=True: they would all be the same")


def check_shapes(x: Tensor, y: Tensor, start: Tensor | None) -> None:
    """Raise :class:`ValueError` unless images, labels and start belong together."""
    if x.ndim < 2 or x.numel() == 0 or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x of shape {tuple(x.shape)} and {x.dtype} must be a batch of images (B, C, H, W), "
            "float32 or float64"
        )
    if y.ndim not in (1, 2) or len(y) != len(x) or y.is_floating_point() != (y.ndim == 2):
        raise ValueError(
            f"y of shape {tuple(y.shape)} and {y.dtype} must be integer labels ({len(x)},) "
            f"or float distributions ({len(x)}, C)"
        )
    if y.device != x.device:
        raise ValueError(f"y is on {y.device}, but x is on {x.device}")
    if start is not None and x.shape not in (start.shape, start.shape[1:]):
        raise ValueError(
            f"start of shape {tuple(start.shape)} must have the shape of x, {tuple(x.shape)}, "
            "or be a stack of such"
        )


def check_values(x: Tensor, y: Tensor, start: Tensor | None, logits: object) -> None:
    """Raise :class:`ValueError` unless numbers are in range, with a single wait for the device.

    Comes after the first forward, because only then the number of classes is known, and before the
    first loss, because a label out of range brings a GPU's context down.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits of shape ({len(x)}, C), not {got}")
    classes = logits.shape[1]
    if classes < 2 or (y.ndim == 2 and y.shape[1] != classes):
        raise ValueError(f"y of shape {tuple(y.shape)} does not fit logits of {classes} classes")
    if not logits.requires_grad:
        raise ValueError("no gradient flows from the model's logits to x: is its input detached?")
    if _capturing(x):
        return
    low, high = x.aminmax()
    checks = {"x must lie in [0, 1] and hold no NaN": (low >= 0) & (high <= 1)}
    if y.ndim == 1:
        checks[f"y must hold labels from 0 to {classes - 1}"] = (y.min() >= 0) & (y.max() < classes)
    else:
        sums_to_one = (y.sum(dim=1) - 1).abs().amax() < 1e-3
        checks["the rows of y must be >= 0 and sum to 1"] = (y.amin() >= 0) & sums_to_one
    if start is not None:
        checks["start must hold finite numbers only"] = start.isfinite().all()
    checks[NOT_FINITE] = logits.isfinite().all()
    for message, passed in zip(checks, torch.stack(list(checks.values())).cpu(), strict=True):
        if not bool(passed):
            kind = NotFiniteError if message == NOT_FINITE else ValueError
            raise kind(f"{message} (batch of shape {tuple(x.shape)})")


def check_finite(total: Tensor) -> None:
    """Raise :class:`NotFiniteError` if ``total``, of all losses and gradients, is not finite."""
    if not _capturing(total) and not bool(total.isfinite()):
        raise NotFiniteError(
            "the model's logits or gradients became NaN or infinite during the attack"
        )


def _capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, where waiting for the device is forbidden."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
