"""N-FGSM: one step from strong noise, not projected back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.base import BN_MODES, Attack
from lrm_lightning.attacks.pgd import PGDAttack
from lrm_lightning.checks import check_choice, check_number
from lrm_lightning.models.view import ENGINES


@dataclass(frozen=True, kw_only=True)
class NFGSM(Attack):
    r"""One step of length eps from noise in a larger ball, clipped to pixels and to nothing else.

    .. math:: x + \eta + \epsilon\,\mathrm{sign} \nabla_x J(x + \eta, y)

    What it finds lies up to ``noise + 1`` times eps away: it is for training, where it does not
    collapse as FGSM does. ``evaluate`` puts what it finds back into the ball.

    Attributes:
        norm: ``"linf"``, the paper's, or ``"l2"``.
        eps: Radius of the threat model, and length of the step.
        noise: Radius of the noise :math:`\eta`, in eps, above 0: the paper's k.
        bn_mode: As of :class:`~lrm_lightning.attacks.PGDAttack`.
        engine: As of :class:`~lrm_lightning.attacks.PGDAttack`.

    Raises:
        ValueError: If a setting is out of range.

    References:
        de Jorge et al. 2022, arXiv:2202.01181, Algorithm 1; k is 2 for CIFAR-10 and 3 for SVHN.
    """

    noise: float = 2.0
    bn_mode: str = "eval"
    engine: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("noise", self.noise, above=0)
        check_choice("bn_mode", self.bn_mode, BN_MODES)
        check_choice("engine", self.engine, ENGINES)

    def draw_noise(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        return self.noise * self.threat.draw(shape, generator=generator, device=device)[None]

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if start is None:
            start = x + self.draw_noise(x.shape, generator=generator, device=x.device)
        # A ball that holds noise and step: pixels alone are clipped.
        reach = (self.noise + 1) * self.eps
        step = PGDAttack(
            norm=self.norm,
            eps=min(reach, 1.0) if self.norm == "linf" else reach,
            step_size=self.eps,
            steps=1,
            random_start=False,
            bn_mode=self.bn_mode,
            engine=self.engine,
        )
        return step(model, x, y, start=start)
