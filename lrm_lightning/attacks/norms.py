"""What a norm gives an attack: a random start, a steepest-ascent direction, and a projection."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """The three places where an attack depends on its norm.

    Attributes:
        draw: ``(shape, eps, generator, device)`` -> uniform float32 perturbation in the ball.
        steepest: gradient ``(B, ...)`` -> direction of norm 1 an image, 0 where the gradient is 0.
        project: ``(x_adv, x, eps)`` -> nearest image to ``x_adv`` with ``|x_adv - x| <= eps``.
    """

    draw: Callable[[torch.Size, float, torch.Generator | None, torch.device], Tensor]
    steepest: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor, float], Tensor]


def _draw_linf(
    shape: torch.Size, eps: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    return torch.rand(shape, generator=generator, device=device).mul_(2 * eps).sub_(eps)


def _project_linf(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.clamp(x_adv, x - eps, x + eps)


def _draw_l2(
    shape: torch.Size, eps: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    noise = torch.randn(shape, generator=generator, device=device)
    # A ball's volume grows with radius^d, so the d-th root of a uniform number fills it evenly.
    per_image = (shape[0], *(1 for _ in shape[1:]))
    radius = torch.rand(per_image, generator=generator, device=device) ** (1 / shape[1:].numel())
    return _steepest_l2(noise) * (eps * radius)


def _steepest_l2(gradient: Tensor) -> Tensor:
    # Confident networks give gradients whose squares underflow: bring the largest entry to 1 first.
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / gradient.abs().amax(dim=_pixels(gradient), keepdim=True).clamp(min=tiny)
    return scaled / _length(scaled).clamp(min=tiny)


def _project_l2(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    delta = x_adv - x
    return x + delta / (_length(delta) / eps).clamp(min=1)


def _length(values: Tensor) -> Tensor:
    """L2 norm of each image: ``(B, C, H, W) -> (B, 1, 1, 1)``."""
    return values.square().sum(dim=_pixels(values), keepdim=True).sqrt()


def _pixels(values: Tensor) -> tuple[int, ...]:
    """All dimensions but the batch."""
    return tuple(range(1, values.ndim))


NORMS = {
    "linf": Norm(draw=_draw_linf, steepest=torch.sign, project=_project_linf),
    "l2": Norm(draw=_draw_l2, steepest=_steepest_l2, project=_project_l2),
}
