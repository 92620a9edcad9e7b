"""What an attack or an evaluation gives a network, and gets from it; each mistake is one line."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.base import attack_mode
from lrm_lightning.errors import NotFiniteError

OVERWRITES = "the model overwrites its input x; let it compute on x.clone()"
NOT_FINITE = "the model returned logits that are NaN or infinite"


def check_shapes(x: Tensor, y: Tensor, start: Tensor | None) -> None:
    """Raise :class:`ValueError` unless images, labels and start belong together."""
    for name, given in {"x": x, "y": y, "start": x if start is None else start}.items():
        if not isinstance(given, Tensor):
            raise ValueError(f"{name} is a {type(given).__name__}; it must be a torch.Tensor")
    if x.ndim < 2 or x.numel() == 0 or x.dtype not in (torch.float32, torch.float64):
        given = f"x of shape {tuple(x.shape)} and {x.dtype}"
        raise ValueError(f"{given} must be a batch of images (B, C, H, W), float32 or float64")
    if y.ndim not in (1, 2) or len(y) != len(x) or y.is_floating_point() != (y.ndim == 2):
        given, n = f"y of shape {tuple(y.shape)} and {y.dtype}", len(x)
        raise ValueError(f"{given} must be integer labels ({n},) or float distributions ({n}, C)")
    if y.device != x.device:
        raise ValueError(f"y is on {y.device}, but x is on {x.device}")
    if start is not None and x.shape not in (start.shape, start.shape[1:]):
        given = f"start of shape {tuple(start.shape)}"
        raise ValueError(f"{given} must have x's shape {tuple(x.shape)}, or be a stack of such")


def explain(error: RuntimeError, model: nn.Module, x: Tensor) -> str:
    """Why ``model`` could not take ``x``, as far as that shows; empty if it doesn't."""
    if "in-place operation" in str(error):
        return OVERWRITES
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return f"x of shape {tuple(x.shape)} must be (B, C, H, W): x.permute(0, 3, 1, 2)"
    dtypes = {each.dtype for each in model.parameters()}
    if dtypes and x.dtype not in dtypes:
        found = ", ".join(map(str, dtypes))
        return f"x is {x.dtype}, but the model is in {found}; give model.to(x.dtype)"
    return ""


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


def predict(network: nn.Module, x: Tensor, *, classes: int | None = None, mend: str = "") -> Tensor:
    """Finite logits of a batch of pixels in [0, 1], shape ``(B, classes)``, without a graph.

    Where the network returns something else than a tensor, ``mend`` says what to do about it.
    """
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
        got = f"a {type(logits).__name__}{mend}"
        if isinstance(logits, Tensor):
            got = f"shape {tuple(logits.shape)}"
        raise ValueError(f"the model must return logits of shape ({len(x)}, C), not {got}")
    if classes is not None and logits.shape[1] != classes:
        raise ValueError(f"the model knows {logits.shape[1]} classes, but the data have {classes}")
    if not logits.isfinite().all():
        raise ValueError(NOT_FINITE)
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
