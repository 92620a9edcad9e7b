"""FGSM and PGD: the worst images that a search in the ball around ``x`` finds.

Attacks run in the precision they are called in: autocast stays as it is outside. Score networks in
fp32: in fp16 small gradients vanish, and with them the attack.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.context import attack_mode
from lrm_lightning.attacks.inputs import check_budget, check_search
from lrm_lightning.attacks.loop import Point, Problem, ascend
from lrm_lightning.attacks.norms import NORMS
from lrm_lightning.attacks.objectives import OBJECTIVES


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    targeted: bool = False,
    loss: str = "cross_entropy",
    bn_mode: str = "eval",
) -> Tensor:
    r"""One step from the clean images: :math:`x + \epsilon\,\mathrm{sign} \nabla_x J(x, y)`.

    The same as :func:`pgd` with one step of size ``eps`` and no random start; see there for the
    arguments and errors.

    Returns:
        ``x_adv``, shape of ``x``, in the ball and in ``[0, 1]``.

    References:
        Goodfellow et al. 2015, arXiv:1412.6572, section 4.
    """
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=eps,
        steps=1,
        norm=norm,
        random_start=False,
        targeted=targeted,
        loss=loss,
        bn_mode=bn_mode,
    )


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    norm: str = "linf",
    random_start: bool = True,
    restarts: int = 1,
    targeted: bool = False,
    loss: str = "cross_entropy",
    bn_mode: str = "eval",
    keep: str = "final",
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Projected gradient ascent, :math:`x^{t+1} = \Pi(x^t + a\,\mathrm{sign} \nabla_x J(x^t, y))`.

    Neither the model (parameters, ``.grad``, modes, running statistics) nor, if a ``generator`` is
    given, torch's global random state is changed.

    Args:
        model: Network that takes pixels in ``[0, 1]`` and returns logits ``(B, C)``.
        x: Clean images in ``[0, 1]``, shape ``(B, C, H, W)``, float32; their memory format is kept.
        y: Labels ``(B,)`` or distributions over classes ``(B, C)``; the targets if ``targeted``.
        eps: Radius of the ball, in pixels, ``> 0``.
        step_size: Length of a step in ``norm``, in pixels, ``> 0``.
        steps: Number of steps, ``>= 1``.
        norm: ``"linf"`` or ``"l2"`` (steps along the gradient divided by its norm).
        random_start: Begin uniformly in the ball instead of at ``x``.
        restarts: Number of searches; of each image the worst outcome is kept.
        targeted: Lower the loss of the target ``y`` instead of raising that of the label.
        loss: ``"cross_entropy"`` or ``"margin"``.
        bn_mode: ``"eval"``, or ``"train"``: batch norm uses the batch's statistics, recording none.
        keep: ``"final"`` iterate of a search, or of each image the ``"best"`` of all its iterates,
            the start included. A misclassified image (``targeted``: one at its target) beats
            others; among equals the loss decides.
        start: Where the first search begins, shape of ``x``, or the first of them,
            ``(searches, *x.shape)``; put back into the ball if outside; replaces the random start.
        generator: Source of the random starts; torch's default generator if ``None``.

    Returns:
        ``x_adv``, shape of ``x``, in the ball and in ``[0, 1]`` (to fp32 rounding).

    Raises:
        ValueError: If a setting is out of range, pixels are outside ``[0, 1]`` or NaN, ``y`` fits
            neither ``x`` nor the logits, or the model returns NaN or infinite logits.

    References:
        Madry et al. 2018, arXiv:1706.06083, section 2.1.
    """
    check_budget(norm=norm, eps=eps, step_size=step_size, loss=loss, bn_mode=bn_mode)
    check_search(steps=steps, restarts=restarts, random_start=random_start, keep=keep)
    with attack_mode(model, bn_mode):
        problem = Problem(
            model,
            x,
            y,
            norm=NORMS[norm],
            eps=eps,
            loss=OBJECTIVES[loss],
            targeted=targeted,
            start=start,
        )
        begins = problem.starts(random_start=random_start, generator=generator)
        paths = (
            ascend(problem, Point(problem, begin), step_size=step_size, steps=steps)
            for begin in islice(begins, restarts)
        )
        x_adv = _worst(_candidates(paths, keep=keep))
        problem.finish()
    return x_adv


class _Outcome(NamedTuple):
    """The worst found so far: of each image its pixels, whether they fool, and the gain."""

    x_adv: Tensor
    fooled: Tensor
    gain: Tensor


def _candidates(paths: Iterable[Iterator[Point]], *, keep: str) -> Iterator[Point]:
    """The points that may be returned: all of each path, or its last."""
    for path in paths:
        if keep == "best":
            yield from path
        else:
            yield deque(path, maxlen=1)[0]


def _worst(candidates: Iterator[Point]) -> Tensor:
    """Of each image the candidate that fools the model; among equals the one with more gain."""
    worst: Point | _Outcome = next(candidates)
    for point in candidates:
        equal = point.fooled == worst.fooled
        worse = torch.where(equal, point.gain > worst.gain, point.fooled)
        pick = worse.view(-1, *(1 for _ in point.x_adv.shape[1:]))
        worst = _Outcome(
            x_adv=torch.where(pick, point.x_adv, worst.x_adv),
            fooled=point.fooled | worst.fooled,
            gain=torch.where(worse, point.gain, worst.gain),
        )
    return worst.x_adv
