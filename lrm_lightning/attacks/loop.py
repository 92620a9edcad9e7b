"""The only projected-gradient loop; the caller passes the threat model and the loss."""

from collections.abc import Iterator
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.base import ThreatModel
from lrm_lightning.attacks.inputs import check_shapes, check_values, explain
from lrm_lightning.attacks.objectives import Objective, PairedLoss, hard_labels
from lrm_lightning.errors import NotFiniteError


class Problem:
    """What is attacked and how far an image may move; to be used inside ``attack_mode``.

    ``loss`` takes logits ``(B, C)`` and ``y``, and returns one value an image, ``(B,)``, or is a
    :class:`~lrm_lightning.attacks.objectives.PairedLoss`. The others are those of
    :class:`~lrm_lightning.attacks.pgd.PGDAttack` and of its call.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        threat: ThreatModel,
        loss: Objective | PairedLoss,
        targeted: bool,
        start: Tensor | None,
    ) -> None:
        check_shapes(x, y, start)  # the values are checked with the first forward
        self.x = _usable(x)
        y = _usable(y)
        self._y = y.long() if y.ndim == 1 else y
        self._start = None if start is None else _usable(start).to(self.x)
        self._model = model
        self._threat = threat
        self._loss = loss
        self._targeted = targeted
        self._checked = False
        self._total = self.x.new_zeros(())

    def starts(self, *, random_start: bool, generator: torch.Generator | None) -> Iterator[Tensor]:
        """Where searches begin: first at the caller's starts, then at random ones or at ``x``."""
        if self._start is not None:
            for start in self._start.reshape(-1, *self.x.shape):
                # In the memory format of x, in which convolutions are faster.
                yield self._threat.project(torch.empty_like(self.x).copy_(start), self.x)
        while True:
            if random_start:
                noise = self._threat.draw(self.x.shape, generator=generator, device=self.x.device)
                yield self._threat.project(self.x + noise, self.x)
            else:
                yield self.x

    def forward(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, C)`` and what the attack raises ``(B,)``, both with their graph."""
        try:
            logits = self._model(x_adv)
        except RuntimeError as error:
            if self._checked or not (problem := explain(error, self._model, self.x)):
                raise
            raise ValueError(problem) from error
        if not self._checked:
            check_values(self.x, self._y, self._start, logits)
            self._checked = True
        if isinstance(self._loss, PairedLoss):  # in the first forward
            with torch.no_grad():
                clean = self._model(self.x).to(self.x.dtype)
            self._loss = partial(self._loss.function, clean)
        logits = logits.to(self.x.dtype)
        gain = self._loss(logits, self._y)
        gain = -gain if self._targeted else gain
        self.watch(gain)
        return logits, gain

    def fooled(self, logits: Tensor) -> Tensor:
        """Where the attack has reached its aim: bool ``(B,)``."""
        return (logits.argmax(dim=1) == hard_labels(self._y)) == self._targeted

    def move(self, point: "Point", step_size: float) -> "Point":
        """One step of steepest ascent from ``point``, put back into the ball and ``[0, 1]``."""
        moved = point.x_adv.add(self._threat.steepest(point.gradient), alpha=step_size)
        return Point(self, self._threat.project(moved, self.x))

    def watch(self, values: Tensor) -> None:
        """Remember if any of ``values`` is not finite, without waiting for the device."""
        self._total = self._total + values.detach().sum()

    def finish(self) -> None:
        """Raise :class:`NotFiniteError` if a loss or gradient on the way was not finite."""
        if not bool(self._total.isfinite()):
            what = "the model's logits or gradients"
            raise NotFiniteError(f"{what} became NaN or infinite during the attack")


class Point:
    """Images ``x_adv``, in bounds; one forward pass is made when a result is first read."""

    def __init__(self, problem: Problem, x_adv: Tensor) -> None:
        self.x_adv = x_adv
        self._problem = problem

    @cached_property
    def _passed(self) -> tuple[Tensor, Tensor, Tensor]:
        leaf = self.x_adv.detach().requires_grad_()
        return leaf, *self._problem.forward(leaf)

    @property
    def logits(self) -> Tensor:
        """Shape ``(B, C)``, no graph."""
        return self._passed[1].detach()

    @property
    def gain(self) -> Tensor:
        """What the attack raises, shape ``(B,)``, no graph."""
        return self._passed[2].detach()

    @property
    def fooled(self) -> Tensor:
        """Where the attack has reached its aim: bool ``(B,)``."""
        return self._problem.fooled(self.logits)

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the summed gain, shape of ``x_adv``; no parameter's ``.grad`` is touched."""
        leaf, _, gain = self._passed
        gradient = torch.autograd.grad(gain.sum(), leaf)[0]
        # sign(NaN) is 0: without this an L-inf attack would do nothing and call the model robust.
        self._problem.watch(gradient)
        return gradient


def ascend(problem: Problem, point: Point, *, step_size: float, steps: int) -> Iterator[Point]:
    """Yield ``point`` and the ``steps`` points after it.

    The pass that gives a point's logits also gives the gradient of the next step; the last point
    costs none unless its logits are read.
    """
    yield point
    for _ in range(steps):
        point = problem.move(point, step_size)
        yield point


def _usable(tensor: Tensor) -> Tensor:
    """``tensor`` without its graph; a copy if inference mode made it, which autograd can't save."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
