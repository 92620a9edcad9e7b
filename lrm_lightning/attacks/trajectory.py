"""Natural logits, FGSM and PGD of several lengths from a single run of PGD."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.context import attack_mode
from lrm_lightning.attacks.inputs import check_budget
from lrm_lightning.attacks.loop import Point, Problem, ascend
from lrm_lightning.attacks.norms import NORMS
from lrm_lightning.attacks.objectives import OBJECTIVES
from lrm_lightning.checks import check_integer


class Iterate(NamedTuple):
    """Attacked images and what the model says of them.

    Attributes:
        x_adv: Shape of ``x``; ``None`` if images were not to be kept.
        logits: Shape ``(B, C)``, no graph.
    """

    x_adv: Tensor | None
    logits: Tensor


class Trajectory(NamedTuple):
    """What one run of PGD shows.

    Attributes:
        logits: Logits of the clean images, shape ``(B, C)``, no graph.
        fgsm: One step of length eps from the clean images.
        iterates: The requested iterates by number of steps, ascending.
    """

    logits: Tensor
    fgsm: Iterate
    iterates: dict[int, Iterate]


def trajectory(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: Sequence[int],
    norm: str = "linf",
    random_start: bool = True,
    targeted: bool = False,
    loss: str = "cross_entropy",
    bn_mode: str = "eval",
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    keep_images: bool = True,
) -> Trajectory:
    """Run PGD once and return the iterates after each of ``steps`` steps.

    Iterate ``k`` is exactly what :func:`pgd` with ``steps=k`` and the same start returns. The pass
    over the clean images gives FGSM its gradient, and the pass that gives an iterate's logits gives
    the next step its gradient: ``max(steps) + 3`` forwards, one less if it starts at ``x``.
    (Exactly if the model is deterministic, which the backward passes of some GPU kernels are not.)

    Args:
        model: As for :func:`pgd`, like all arguments not listed here.
        x: Clean images, shape ``(B, C, H, W)``.
        y: Labels ``(B,)`` or distributions ``(B, C)``.
        eps: Radius of the ball.
        step_size: Length of a step.
        steps: Numbers of steps wanted, each ``>= 0``, where 0 is the start itself. May be empty:
            then only the clean logits and FGSM are made.
        norm: ``"linf"`` or ``"l2"``.
        random_start: Begin uniformly in the ball.
        targeted: Lower the loss of the target ``y``.
        loss: ``"cross_entropy"`` or ``"margin"``.
        bn_mode: ``"eval"`` or ``"train"``.
        start: Where to begin, shape of ``x``; replaces the random start.
        generator: Source of the random start.
        keep_images: Return the images too. If not, memory does not grow with the iterates wanted.

    Returns:
        The clean logits, FGSM and the iterates. Iterate 0 without a random start is ``x`` itself,
        not a copy.

    Raises:
        ValueError: As :func:`pgd`.
    """
    check_budget(norm=norm, eps=eps, step_size=step_size, loss=loss, bn_mode=bn_mode)
    for number in steps:
        check_integer("steps", number, low=0)

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
        natural = Point(problem, problem.x)
        logits = natural.logits
        # In one piece: small tensors between activations keep what is freed around them apart.
        room = iter(logits.new_empty(1 + len(set(steps)), *logits.shape))

        def iterate(point: Point) -> Iterate:
            return Iterate(point.x_adv if keep_images else None, next(room).copy_(point.logits))

        fgsm = iterate(problem.move(natural, eps))
        iterates: dict[int, Iterate] = {}
        if steps:
            begin = next(problem.starts(random_start=random_start, generator=generator))
            point = natural if begin is problem.x else Point(problem, begin)
            path = ascend(problem, point, step_size=step_size, steps=max(steps))
            iterates = {k: iterate(point) for k, point in enumerate(path) if k in steps}
        problem.finish()
    return Trajectory(logits, fgsm, iterates)
