"""Threat models, the interface of an attack, and the state of a model while it is attacked."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_choice, check_number

NORMS = ("linf", "l2")
BN_MODES = ("eval", "train")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class ThreatModel:
    """How far an attack may move an image: a ball around it, and the pixels' range [0, 1].

    Attributes:
        norm: ``"linf"`` or ``"l2"``.
        eps: Radius of the ball, in pixels of [0, 1], above 0; in L-inf at most 1.

    Raises:
        ValueError: If a value is out of range.
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        largest = 1.0 if self.norm == "linf" else None
        why = "radius of the ball, in pixels of [0, 1]"
        check_number("eps", self.eps, above=0, high=largest, why=why)

    @property
    def step_size(self) -> float:
        """The paper's step for this radius, 0.26 eps: 0.0078 where eps is 0.03."""
        return round(0.26 * self.eps, 12)

    def draw(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Perturbation uniform in the ball of each image, float32, of ``shape`` ``(B, C, H, W)``.

        It is drawn on the generator's own device, so a CPU generator gives the same on every
        device; without one, torch's default generator of ``device`` is used.
        """
        source = torch.device(device) if generator is None else generator.device
        if self.norm == "linf":
            noise = torch.rand(shape, generator=generator, device=source)
            return noise.mul_(2 * self.eps).sub_(self.eps).to(device)
        direction = _unit(torch.randn(shape, generator=generator, device=source))
        # A ball's volume grows with radius^d, so the d-th root of a uniform number fills it evenly.
        per_image = (shape[0], *(1 for _ in shape[1:]))
        uniform = torch.rand(per_image, generator=generator, device=source)
        return (direction * (self.eps * uniform ** (1 / math.prod(shape[1:])))).to(device)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Direction of norm 1 for each image of ``gradient``, 0 where the gradient is 0."""
        return gradient.sign() if self.norm == "linf" else _unit(gradient)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """How far each image was moved, in the norm, shape ``(B,)``."""
        order = math.inf if self.norm == "linf" else 2
        return torch.linalg.vector_norm((x_adv - x).flatten(1), ord=order, dim=1)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """``x_adv`` put into the ball, then clipped to [0, 1].

        In L-inf that is the nearest image of the threat model; in L2 it is one, not always the
        nearest.
        """
        if self.norm == "linf":
            nearest = torch.clamp(x_adv, x - self.eps, x + self.eps)
        else:
            delta = x_adv - x
            nearest = x + delta / (_length(delta) / self.eps).clamp(min=1)
        # Clipping comes last: it moves every pixel towards x, so the image stays in the ball.
        return nearest.clamp_(0, 1)


def _unit(values: Tensor) -> Tensor:
    """Each image of ``values`` divided by its L2 norm, 0 where that is 0."""
    # Confident networks give gradients whose squares underflow: bring the largest entry to 1 first.
    tiny = torch.finfo(values.dtype).tiny
    pixels = tuple(range(1, values.ndim))
    scaled = values / values.abs().amax(dim=pixels, keepdim=True).clamp(min=tiny)
    return scaled / _length(scaled).clamp(min=tiny)


def _length(values: Tensor) -> Tensor:
    """L2 norm of each image: ``(B, C, H, W) -> (B, 1, 1, 1)``."""
    return values.square().sum(dim=tuple(range(1, values.ndim)), keepdim=True).sqrt()


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Searches for adversarial images within a threat model; to be subclassed, one attack a file.

    Its ``norm`` and ``eps`` are those of :class:`ThreatModel`.
    """

    norm: str = "linf"
    eps: float = 0.03

    def __post_init__(self) -> None:
        _ = self.threat  # checks its ranges, so that a mistake shows before anything is trained

    @property
    def name(self) -> str:
        """What it is called in metrics and records: its class, in lower case."""
        return type(self).__name__.lower()

    @property
    def threat(self) -> ThreatModel:
        """How far the attack may move an image."""
        return ThreatModel(self.norm, self.eps)

    def draw_noise(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor | None:
        """Noise whose sum with clean images of ``shape`` ``(B, C, H, W)`` is where searches begin.

        Training draws it for the global batch, as :meth:`ThreatModel.draw` does, and takes the rows
        of its own process.

        Returns:
            Shape ``(searches, *shape)``, one noise a search. This default returns ``None``: the
            attack begins at the clean images.
        """
        return None

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attacked images.

        Args:
            model: Network that takes pixels in [0, 1] and returns logits ``(B, C)``. Nothing of it
                may be changed: :func:`attack_mode` sees to that.
            x: Clean images in [0, 1], shape ``(B, C, H, W)``.
            y: Labels ``(B,)`` or, while training, distributions over classes ``(B, C)``.
            start: Where its searches begin, ``x`` plus :meth:`draw_noise`; with ``None`` the attack
                draws its own.
            generator: Source of its random numbers; torch's default generator if ``None``.

        Returns:
            ``x_adv``, shape of ``x``, in [0, 1], and in the ball unless the attack says otherwise.
        """

    def as_dict(self) -> dict[str, Any]:
        """The settings that determine what the attack finds, so without ``engine``."""
        names = (each.name for each in fields(self))
        return {name: getattr(self, name) for name in names if name != "engine"}


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
