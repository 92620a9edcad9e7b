"""FGSM and PGD, which search the ball around ``x`` for images of high loss.

Attacks leave the caller's autocast as it is. Networks are to be scored in float32: in float16 small
gradients become 0, and the attack stops moving.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrm_lightning.attacks.base import BN_MODES, Attack, attack_mode
from lrm_lightning.attacks.forward import check_shapes, check_values, explain
from lrm_lightning.attacks.wrappers import Expectation, StraightThrough
from lrm_lightning.checks import check_choice, check_flag, check_integer, check_number, crosses
from lrm_lightning.errors import NotFiniteError
from lrm_lightning.losses import OBJECTIVES, Objective, hard_labels
from lrm_lightning.models.view import ENGINES, attack_view

KEEPS = ("final", "best")
# Number of steps to break an image that no iterate breaks.
NEVER = torch.iinfo(torch.int16).max
# After so many steps the images that are misclassified leave the batch.
SEGMENT = 20


class Iterate(NamedTuple):
    """Attacked images, ``None`` if they were not to be kept, and their logits without a graph."""

    x_adv: Tensor | None
    logits: Tensor


class Trajectory(NamedTuple):
    """What one run of PGD shows."""

    logits: Tensor  # of the clean images, shape (B, C), no graph
    fgsm: Iterate  # one step of length eps from the clean images
    iterates: dict[int, Iterate]  # the requested ones by number of steps, ascending


@dataclass(frozen=True)
class PairedLoss:
    """A loss that may compare an attacked image with the clean one.

    ``function`` takes the logits of the clean images, without a graph, those of the attacked ones,
    ``(B, C)`` both, and ``y``; it returns ``(B,)``. Records call the loss by its ``name``.
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class PGDAttack(Attack):
    r"""Projected gradient ascent, :math:`x^{t+1} = \Pi(x^t + a\,\mathrm{sign} \nabla_x J(x^t, y))`.

    The defaults are the paper's training attack (section 5.1). Neither the model (parameters,
    ``.grad``, modes, running statistics) nor, if a ``generator`` is given, torch's global random
    state is changed.

    Attributes:
        norm: ``"linf"`` or ``"l2"`` (steps along the gradient divided by its norm).
        eps: Radius of the ball, in pixels of [0, 1], above 0; in L-inf at most 1.
        step_size: Length of a step in ``norm``, in pixels, above 0.
        steps: Number of steps, at least 1.
        random_start: Begin uniformly in the ball instead of at the clean images.
        restarts: Number of searches per image, of which the worst outcome is kept; more than one
            need a random start.
        targeted: ``y`` holds the classes to reach: lower their loss instead of raising the label's.
        loss: ``"cross_entropy"``, ``"margin"``, ``"dlr"``, or a function of logits ``(B, C)`` and
            ``y`` that gives values ``(B,)``, of a defence whose attack raises a term of its own, or
            a :class:`PairedLoss`.
        bn_mode: ``"eval"``, or ``"train"``: batch norm uses the batch's statistics, recording none.
        keep: ``"final"`` iterate of a search, or of each image the ``"best"`` of all its iterates,
            the start included. A misclassified image (``targeted``: one at its target) beats
            others; among equals the loss decides.
        engine: How the network is computed, which changes what is found by rounding alone; see
            :func:`~lrm_lightning.models.view.attack_view`.

    Raises:
        ValueError: If a setting is out of range; when called, if pixels are outside [0, 1] or NaN,
            ``y`` fits neither ``x`` nor the logits, or the model returns NaN or infinite logits.

    References:
        Madry et al. 2018, arXiv:1706.06083, section 2.1.
    """

    step_size: float = 0.0078
    steps: int = 10
    random_start: bool = True
    restarts: int = 1
    targeted: bool = False
    loss: str | Objective | PairedLoss = "cross_entropy"
    bn_mode: str = "eval"
    keep: str = "final"
    engine: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("step_size", self.step_size, above=0)
        check_integer("steps", self.steps, low=1)
        check_flag("random_start", self.random_start)
        check_integer("restarts", self.restarts, low=1)
        check_flag("targeted", self.targeted)
        if not callable(self.loss) and not isinstance(self.loss, PairedLoss):
            check_choice("loss", self.loss, OBJECTIVES)
        check_choice("bn_mode", self.bn_mode, BN_MODES)
        check_choice("keep", self.keep, KEEPS)
        check_choice("engine", self.engine, ENGINES)
        if self.targeted and self.loss == "dlr":
            raise ValueError("loss=dlr has no target; use loss=margin with targeted=True")
        if self.restarts > 1 and not self.random_start:
            same = "needs random_start=True: they would all be the same"
            raise ValueError(f"restarts={self.restarts} {same}")

    def falls_short(self, counts: Iterable[int]) -> str:
        """A line on those numbers of steps that are together shorter than ``eps``; else empty."""
        short = sorted({each for each in counts if not crosses(each, self.step_size, self.eps)})
        if not short:
            return ""
        return (
            f"{', '.join(map(str, short))} steps of {self.step_size:g} are shorter than eps"
            f" {self.eps:g}: the search cannot cross its ball"
        )

    def as_dict(self) -> dict[str, Any]:
        """The settings of an attack; a loss that is a function is given as ``str(loss)``.

        With a loss that is a name, ``PGDAttack(**attack.as_dict())`` finds the same images.
        """
        return super().as_dict() | {"loss": str(self.loss)}

    def draw_noise(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor | None:
        """Noise of each search's random start, shape ``(restarts, *shape)``, if there is one."""
        if not self.random_start:
            return None
        draw = partial(self.threat.draw, shape, generator=generator, device=device)
        return torch.stack([draw() for _ in range(self.restarts)])

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attacked images, in the memory format of ``x``; see :meth:`Attack.__call__`.

        A ``start`` has the shape of ``x``, for the first search, or ``(k, *x.shape)``, for the
        first k; other searches draw theirs. It is put into the ball if it is outside.
        """
        with self._attacking(model, x, y, start) as problem:
            starts = islice(problem.starts(generator), self.restarts)
            paths = (problem.ascend(Point(problem, begin), self.steps) for begin in starts)
            last = (deque(path, maxlen=1)[0] for path in paths)
            return _worst(chain.from_iterable(paths) if self.keep == "best" else last)

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
        """Clean logits, FGSM and the iterates after each of ``steps`` steps, from a single run.

        Iterate ``k`` is exactly what the attack with ``steps=k`` and the same start returns. The
        pass over the clean images gives FGSM its gradient, and the pass that gives an iterate's
        logits gives the next step its gradient: ``max(steps) + 3`` forwards, one less if it starts
        at ``x``. (Exactly if the model is deterministic, which the backward passes of some GPU
        kernels are not.) :attr:`steps`, :attr:`restarts` and :attr:`keep` have no meaning here.

        Each of ``steps`` is at least 0, where 0 is the start itself: without a random start that is
        ``x`` and not a copy. Without any, only the clean logits and FGSM are made. Unless images
        are kept, an iterate costs the memory of its logits. Other arguments are those of a call.
        """
        for number in steps:
            check_integer("steps", number, low=0)
        with self._attacking(model, x, y, start) as problem:
            natural = Point(problem, problem.x)
            logits = natural.logits
            # They are allocated at once: small tensors between large ones fragment the memory.
            buffers = iter(logits.new_empty(1 + len(set(steps)), *logits.shape))

            def iterate(point: Point) -> Iterate:
                return Iterate(
                    point.x_adv if keep_images else None, next(buffers).copy_(point.logits)
                )

            fgsm_iterate = iterate(problem.move(natural, self.eps))
            iterates: dict[int, Iterate] = {}
            if steps:
                begin = next(problem.starts(generator))
                point = natural if begin is problem.x else Point(problem, begin)
                path = problem.ascend(point, max(steps))
                iterates = {k: iterate(point) for k, point in enumerate(path) if k in steps}
        return Trajectory(logits, fgsm_iterate, iterates)

    def steps_to_break(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        start: Tensor,
        target: Tensor | None = None,
        found: Tensor | None = None,
    ) -> Tensor:
        """Number of steps after which each image is first misclassified.

        It stops when all are. ``target`` are the classes to reach, shape ``(B,)``, if
        :attr:`targeted`; any misclassification counts all the same. Into ``found``, shape of ``x``,
        are written the iterates that are misclassified first or, where none is, the last ones.

        An image whose iterate is, bit for bit, what it was at most :data:`SEGMENT` steps before
        repeats these steps forever, so it leaves the batch too. (Not where the gradient
        may be random, of a stand-in or of a mean of passes, nor with ``found``, which is given the
        last iterates.)

        Returns:
            int64 ``(B,)``: 0 if the start is misclassified already, ``NEVER`` if no iterate is.

        References:
            arXiv:2503.19347: signed gradients without momentum fall into cycles.
        """
        needed = torch.full((len(x),), NEVER, device=x.device)
        x_adv, aim = start.to(x).clone(), y if target is None else target
        cycling = torch.zeros_like(needed).bool()
        repeats = found is None and not isinstance(model, (Expectation, StraightThrough))
        for begin in range(0, self.steps, SEGMENT):
            rows = ((needed == NEVER) & ~cycling).nonzero()[:, 0]
            if not len(rows):
                break
            with self._attacking(model, x[rows], aim[rows], x_adv[rows]) as problem:
                point = Point(problem, next(problem.starts(None)))
                first, path = point.x_adv, problem.ascend(point, min(SEGMENT, self.steps - begin))
                for step, point in enumerate(path, start=begin):
                    wrong = point.logits.argmax(dim=1) != y[rows]
                    broken = wrong & (needed[rows] == NEVER)
                    needed[rows[broken]] = step
                    if found is not None:
                        found[rows[broken]] = point.x_adv[broken]
                    if repeats and step > begin:
                        cycling[rows] |= (point.x_adv == first).flatten(1).all(dim=1)
                    if bool(((needed[rows] < NEVER) | cycling[rows]).all()):
                        break
                x_adv[rows] = point.x_adv
        if found is not None:
            found[needed == NEVER] = x_adv[needed == NEVER]
        return needed

    @contextmanager
    def _attacking(
        self, model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None
    ) -> Iterator["Problem"]:
        # A view has no batch statistics to attack with.
        view = attack_view(model, self.engine if self.bn_mode == "eval" else "reference")
        with attack_mode(view, self.bn_mode):
            problem = Problem(self, view, x, y, start)
            yield problem
            problem.finish()


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Tensor:
    """:class:`PGDAttack` with these ``settings``, called once; see there for all arguments."""
    return PGDAttack(**settings)(model, x, y, start=start, generator=generator)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, **settings: Any) -> Tensor:
    r"""One step from the clean images: :math:`x + \epsilon\,\mathrm{sign} \nabla_x J(x, y)`.

    The same as :func:`pgd` with one step of size ``eps`` and no random start.

    References:
        Goodfellow et al. 2015, arXiv:1412.6572, section 4.
    """
    return pgd(model, x, y, eps=eps, step_size=eps, steps=1, random_start=False, **settings)


class Problem:
    """One call of an attack, and the only projected-gradient loop; used inside ``attack_mode``."""

    def __init__(
        self, attack: PGDAttack, model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None
    ) -> None:
        check_shapes(x, y, start)  # the values are checked with the first forward
        self.x = _usable(x)
        y = _usable(y)
        self.y = y.long() if y.ndim == 1 else y
        self._start = None if start is None else _usable(start).to(self.x)
        self._model = model
        self.attack, self._threat = attack, attack.threat
        self._loss = OBJECTIVES[attack.loss] if isinstance(attack.loss, str) else attack.loss
        self._checked = False
        self._total = self.x.new_zeros(())

    def starts(self, generator: torch.Generator | None) -> Iterator[Tensor]:
        """Where searches begin: first at the caller's starts, then at random ones or at ``x``."""
        if self._start is not None:
            for start in self._start.reshape(-1, *self.x.shape):
                # In the memory format of x, in which convolutions are faster.
                yield self._threat.project(torch.empty_like(self.x).copy_(start), self.x)
        while True:
            if self.attack.random_start:
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
            check_values(self.x, self.y, self._start, logits)
            self._checked = True
        if isinstance(self._loss, PairedLoss):  # in the first forward
            with torch.no_grad():
                clean = self._model(self.x).to(self.x.dtype)
            self._loss = partial(self._loss.function, clean)
        logits = logits.to(self.x.dtype)
        gain = self._loss(logits, self.y)
        gain = -gain if self.attack.targeted else gain
        self.watch(gain)
        return logits, gain

    def move(self, point: "Point", step_size: float) -> "Point":
        """One step of steepest ascent from ``point``, put back into the ball and ``[0, 1]``."""
        moved = point.x_adv.add(self._threat.steepest(point.gradient), alpha=step_size)
        return Point(self, self._threat.project(moved, self.x))

    def ascend(self, point: "Point", steps: int) -> Iterator["Point"]:
        """Yield ``point`` and the ``steps`` points after it.

        The pass that gives a point's logits also gives the gradient of the next step; the last
        point costs none unless its logits are read.
        """
        yield point
        for _ in range(steps):
            point = self.move(point, self.attack.step_size)
            yield point

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
        aim = hard_labels(self._problem.y)
        return (self.logits.argmax(dim=1) == aim) == self._problem.attack.targeted

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the summed gain, shape of ``x_adv``; no parameter's ``.grad`` is touched."""
        leaf, _, gain = self._passed
        gradient = torch.autograd.grad(gain.sum(), leaf)[0]
        # sign(NaN) is 0: without this an L-inf attack would do nothing and call the model robust.
        self._problem.watch(gradient)
        return gradient


class _Outcome(NamedTuple):
    """The worst images found so far, whether each is fooled, and what the attack raised."""

    x_adv: Tensor
    fooled: Tensor
    gain: Tensor


def _worst(candidates: Iterator[Point]) -> Tensor:
    """For each image the candidate that fools the model; among equals the one with more gain."""
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


def _usable(tensor: Tensor) -> Tensor:
    """``tensor`` without its graph; a copy if inference mode made it, which autograd can't save."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
