"""AutoAttack through pyautoattack, the official code, one attack on one batch at a time.

The official ``run_standard_evaluation`` can resume from a file, but then it puts other images into
a batch than an undisturbed run does, and the images of a batch share random numbers. Here each
attack on each batch is one call of it, with the images that an undisturbed run has there: what is
found does not depend on interruptions and equals, bit for bit, what a single call on all images
finds.
"""

import logging
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor, nn

from lrm_lightning.attacks.base import ThreatModel, attack_mode
from lrm_lightning.attacks.forward import predict
from lrm_lightning.checks import check_integer

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
NORMS: dict[str, Literal["Linf", "L2"]] = {"linf": "Linf", "l2": "L2"}
# Official images are rounded to float32 after projection.
TOLERANCE = 1e-5
# Words of pyautoattack's warnings, and what they mean; see its flags_doc.md.
FLAGS = {
    "randomized": "the model's output is random",
    "probability": "the model returns probabilities, not logits",
    "zero gradient": "the gradient of the DLR loss is zero at some images",
    "dynamic": "the model differentiates or optimises while it predicts",
}

Piece = dict[str, np.ndarray]
Each = Callable[[Mapping[str, Callable[[], Piece]]], Iterable[tuple[str, Piece]]]


class Ensemble(NamedTuple):
    """Result of AutoAttack.

    For ``"clean"`` and each attack, ``correct`` says which images are classified correctly after it
    and all before it, bool ``(n,)``. An image that an attack broke is not attacked again.
    """

    x_adv: Tensor  # shape of x: attacked where an attack succeeded, clean elsewhere
    y_adv: np.ndarray  # predicted classes of x_adv, int64 (n,)
    correct: dict[str, np.ndarray]
    flags: list[str]  # what pyautoattack warns of, sorted


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    seed: int = 0,
    batch_size: int = 250,
    iterations: int = 100,
    queries: int = 5000,
    attacks: Sequence[str] = STANDARD,
    each: Each = lambda pieces: ((name, compute()) for name, compute in pieces.items()),
    done: Callable[[str, int, int], None] = lambda attack, images, of: None,
) -> Ensemble:
    """AutoAttack standard: APGD-CE, APGD-T, FAB-T and Square, each on what the former left correct.

    Args:
        model: Network that takes pixels in ``[0, 1]`` and returns logits ``(B, C)`` in float32, in
            eval mode, not compiled.
        x: Clean images in ``[0, 1]``, shape ``(n, C, H, W)``, float32.
        y: Labels ``(n,)``.
        eps: Radius of the ball, in pixels.
        norm: ``"linf"`` or ``"l2"``.
        seed: Seed of each attack on each batch.
        batch_size: Images attacked at a time. They share random numbers: it is part of the result.
        iterations: Steps of APGD and FAB; fewer than the standard's are for quick checks only.
        queries: Queries of Square; as with ``iterations``.
        attacks: Those of ``STANDARD`` to run, in order.
        each: Takes functions by name and yields each name with its function's result, in any
            order. A result may come from a cache or another process instead of from a call.
        done: Told ``(attack, images, of)``: no images as an attack begins, then each batch's.

    Returns:
        The result. With fewer than ten classes the targeted attacks try all of them.

    Raises:
        ValueError: If a setting is out of range, an image is not in ``[0, 1]``, or the model
            returns NaN or has fewer than four classes.

    References:
        Croce & Hein 2020, arXiv:2003.01690.
    """
    ThreatModel(norm, eps)  # checks both
    check_integer("seed", seed, low=0)
    check_integer("batch_size", batch_size, low=1)
    # The official code checks neither pixels nor logits.
    if not (x.dtype == torch.float32 and x.ndim == 4 and len(x)):
        raise ValueError(f"x of shape {tuple(x.shape)} and {x.dtype} must be float32 (n, C, H, W)")
    logits = torch.cat([predict(model, batch) for batch in x.split(batch_size)])
    y_adv, x_adv = logits.argmax(dim=1).cpu().numpy(), x.clone()
    robust = y_adv == y.cpu().numpy()
    correct, flags = {"clean": robust.copy()}, set[str]()
    settings = {"eps": eps, "norm": norm, "seed": seed, "classes": count_classes(logits)}
    settings |= {"iterations": iterations, "queries": queries}
    for attack in attacks:
        (left,) = robust.nonzero()
        done(attack, 0, len(left))
        batches = {
            f"autoattack-{attack}-{number}": left[begin : begin + batch_size]
            for number, begin in enumerate(range(0, len(left), batch_size))
        }

        def compute(rows: np.ndarray, attack: str = attack) -> Piece:
            index = torch.from_numpy(rows)
            return attack_batch(model, x[index], y[index], attack, **settings)

        for name, piece in each({name: partial(compute, rows) for name, rows in batches.items()}):
            rows = batches[name]
            broken = rows[piece["broken"]]
            robust[broken] = False
            y_adv[broken] = piece["y_adv"]
            x_adv[torch.from_numpy(broken)] = torch.from_numpy(piece["x_adv"]).to(x_adv.device)
            flags |= set(piece["flags"].tolist())
            done(attack, len(rows), len(left))
        correct[attack] = robust.copy()
    return Ensemble(x_adv, y_adv, correct, sorted(flags))


def attack_batch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: str,
    *,
    eps: float,
    norm: str,
    seed: int,
    classes: int,
    iterations: int,
    queries: int,
) -> Piece:
    """One ``attack`` of ``STANDARD`` on one batch, by the official code.

    Arguments are those of :func:`autoattack`, with images ``x`` that the model classifies correctly
    and the number of ``classes``, at least 4.

    Returns:
        ``broken``: bool ``(B,)``; ``x_adv`` and ``y_adv`` of the broken images only, in order;
        ``flags``: texts.
    """
    official = AutoAttack(
        model, norm=NORMS[norm], eps=eps, seed=seed, version="standard", device=x.device
    )
    official.attacks_to_run = [cast(Any, attack)]
    official.apgd_targeted.n_target_classes = official.fab.n_target_classes = min(9, classes - 1)
    official.apgd.n_iter = official.apgd_targeted.n_iter = official.fab.n_iter = iterations
    official.square.n_queries = queries
    x = x.contiguous()  # the official code takes views of gradients, which are laid out as images
    with _flags_of(model, x.device) as flags:
        torch.manual_seed(seed)  # for random networks; the official attacks seed themselves
        x_adv, y_adv = official.run_standard_evaluation(x, y, batch_size=len(x))
    # NaN, as FAB may return, is no adversarial example.
    broken = (y_adv != y) & (ThreatModel(norm, eps).distance(x_adv, x) <= eps + TOLERANCE)
    return {
        "broken": broken.cpu().numpy(),
        "x_adv": x_adv[broken].cpu().numpy(),
        "y_adv": y_adv[broken].cpu().numpy(),
        "flags": np.array(sorted(flags), dtype=np.str_),
    }


def count_classes(logits: Tensor) -> int:
    """Number of classes of ``logits``; raises :class:`ValueError` if they are fewer than four."""
    if logits.shape[1] < 4:
        raise ValueError(f"AutoAttack needs at least 4 classes, not logits {tuple(logits.shape)}")
    return logits.shape[1]


@contextmanager
def _flags_of(model: nn.Module, device: torch.device) -> Generator[set[str]]:
    """Collect what the official code warns of, which it would print for every batch.

    What it changes is as before in the end: seeds, gradients, a debugger's trace function.
    """
    found: set[str] = set()

    def collect(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        found.update(meaning for words, meaning in FLAGS.items() if words in message)
        return False  # it goes no further

    trace, logger = sys.gettrace(), logging.getLogger("auto-attack")
    level = logger.level
    logger.addFilter(collect)
    logger.setLevel(logging.WARNING)
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # else one dynamic model marks all after it
    devices = [device] if device.type == "cuda" else []
    try:
        with attack_mode(model), torch.random.fork_rng(devices=devices):
            yield found
    finally:
        sys.settrace(trace)
        logger.removeFilter(collect)
        logger.setLevel(level)
