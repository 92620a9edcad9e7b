"""The settings of a PGD attack as one value: made from a config, checked, written to records."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.inputs import check_budget, check_search
from lrm_lightning.attacks.norms import NORMS, draw_start
from lrm_lightning.attacks.pgd import pgd
from lrm_lightning.attacks.trajectory import Trajectory, trajectory
from lrm_lightning.checks import check_flag


@dataclass(frozen=True, kw_only=True)
class PGDAttack:
    """PGD with fixed settings; the defaults are the paper's training attack (section 5.1).

    Attributes:
        eps: Radius of the ball, in pixels of ``[0, 1]``.
        step_size: Length of a step.
        steps: Number of steps, ``>= 1``.
        norm: ``"linf"`` or ``"l2"``.
        random_start: Begin uniformly in the ball instead of at the clean images.
        restarts: Searches an image; needs a random start if more than 1.
        targeted: ``y`` holds the classes to reach.
        loss: ``"cross_entropy"`` or ``"margin"``.
        bn_mode: ``"eval"`` or ``"train"``.
        keep: ``"final"`` or ``"best"``.

    Raises:
        ValueError: If a setting is out of range.
    """

    eps: float = 0.03
    step_size: float = 0.0078
    steps: int = 10
    norm: str = "linf"
    random_start: bool = True
    restarts: int = 1
    targeted: bool = False
    loss: str = "cross_entropy"
    bn_mode: str = "eval"
    keep: str = "final"

    def __post_init__(self) -> None:
        """Check every range, so that a mistake shows before anything is trained."""
        check_flag("random_start", self.random_start)
        check_flag("targeted", self.targeted)
        check_budget(
            norm=self.norm,
            eps=self.eps,
            step_size=self.step_size,
            loss=self.loss,
            bn_mode=self.bn_mode,
        )
        check_search(
            steps=self.steps,
            restarts=self.restarts,
            random_start=self.random_start,
            keep=self.keep,
        )

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attacked images, shape of ``x``; see :func:`pgd`."""
        return pgd(model, x, y, **asdict(self), start=start, generator=generator)

    def trajectory(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        steps: Sequence[int],
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
        keep_images: bool = True,
    ) -> Trajectory:
        """Clean logits, FGSM and the iterates after ``steps`` steps; see :func:`trajectory`.

        The numbers of steps asked for replace :attr:`steps`; :attr:`restarts` and :attr:`keep` have
        no meaning here.
        """
        return trajectory(
            model,
            x,
            y,
            eps=self.eps,
            step_size=self.step_size,
            steps=steps,
            norm=self.norm,
            random_start=self.random_start,
            targeted=self.targeted,
            loss=self.loss,
            bn_mode=self.bn_mode,
            start=start,
            generator=generator,
            keep_images=keep_images,
        )

    def draw_start(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Perturbation to add to clean images for a ``start``: uniform in the ball of each image.

        Draw it for the global batch and take the rows of this process. The sum may lie outside
        ``[0, 1]``; the attack puts it back.

        Args:
            shape: ``(B, C, H, W)``.
            generator: Source; the numbers are drawn on its device, then moved to ``device``.
            device: Where the result shall be.

        Returns:
            Float32, ``shape``; zeros if :attr:`random_start` is off.
        """
        if not self.random_start:
            return torch.zeros(*shape, device=device)
        return draw_start(
            NORMS[self.norm],
            torch.Size(shape),
            eps=self.eps,
            generator=generator,
            device=torch.device(device),
        )

    def as_dict(self) -> dict[str, float | int | str | bool]:
        """All settings as plain values; ``PGDAttack(**attack.as_dict())`` equals ``attack``."""
        return asdict(self)
