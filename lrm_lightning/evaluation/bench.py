"""The images that are attacked, where attacks on them begin, and what a suite of attacks is."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lrm_lightning.attacks import Attack, PGDAttack, attack_mode
from lrm_lightning.attacks.forward import predict
from lrm_lightning.attacks.pgd import PairedLoss
from lrm_lightning.checks import check_integer
from lrm_lightning.data import ImageSplit
from lrm_lightning.data.randomness import generator
from lrm_lightning.evaluation.cache import Cache, Piece, Progress
from lrm_lightning.runs.provenance import sources

# From places, pixels and labels of a batch: arrays by name.
Compute = Callable[[np.ndarray, Tensor, Tensor], Piece]


class Images(NamedTuple):
    """Images of a split, in its order."""

    x: Tensor  # pixels in [0, 1], shape (n, channels, H, W), float32
    y: Tensor  # labels, shape (n,), int64
    index: np.ndarray  # their positions in the split, shape (n,), int64, rising
    # Places in this subset of the first images that were drawn, at most eight: the same images for
    # every network and, but for a smaller subset, every n_images.
    shown: np.ndarray

    def rows(self, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels at ``places`` of this subset."""
        chosen = torch.from_numpy(places).to(self.x.device)
        return self.x[chosen], self.y[chosen]


class Worst:
    """For each image the first attacked version that is misclassified, else the last one made.

    Args:
        images: The clean ones, with which it begins.
        broken: Which of them are misclassified without an attack, bool ``(n,)``.
    """

    def __init__(self, images: Images, broken: np.ndarray) -> None:
        self.x_adv = images.x.cpu().numpy().copy()
        self._broken = broken.copy()

    def add(self, places: np.ndarray, x_adv: np.ndarray, broken: np.ndarray) -> None:
        """What an attack made of the images at ``places``, and which of them it broke."""
        new = ~self._broken[places]
        self.x_adv[places[new]] = x_adv[new]
        self._broken[places] |= broken


def pick(
    split: ImageSplit, *, n_images: int | None, seed: int, device: torch.device | str = "cpu"
) -> Images:
    """A random subset that ``seed`` fixes, ``None``: all; a smaller one is part of a larger one."""
    if n_images is not None:
        check_integer("n_images", n_images, low=1)
    drawn = torch.randperm(len(split.labels), generator=generator(seed, "subset"))[:n_images]
    index = drawn.sort().values.numpy()
    images = at(split, index, device=device)
    return images._replace(shown=np.searchsorted(index, drawn[:8].numpy()))


def at(split: ImageSplit, index: np.ndarray, *, device: torch.device | str = "cpu") -> Images:
    """The images at the positions ``index``, rising; the first of them are shown."""
    if index[-1] >= len(split.labels):
        raise ValueError(f"there is no test image {index[-1]}, only {len(split.labels)} of them")
    rows = torch.from_numpy(index)
    x, y = split.images[rows].to(device).float().div(255), split.labels[rows].to(device)
    return Images(x, y, index, np.arange(min(8, len(index))))


@dataclass(frozen=True)
class Bench:
    """Images, a threat model, and where progress is kept and shown."""

    images: Images
    threat: PGDAttack  # PGD of the threat model, with its step_size; a suite sets the rest
    seed: int = 0  # of every draw of the attacks
    batch_size: int = 100  # images attacked at a time
    cache: Cache = field(default_factory=Cache)
    progress: Progress = field(default_factory=Progress)
    # By name: other networks, whose examples a suite may try, and attacks besides the suite's own.
    sources: Mapping[str, nn.Module] = field(default_factory=dict)
    extra_attacks: Mapping[str, Attack] = field(default_factory=dict)
    surrogate: nn.Module | None = None  # a stand-in, whose gradient a suite may attack with
    keep_images: bool = False  # whether a suite is to hand over the images of its worst attack
    worst: Worst | None = None  # takes the images that attacks find, if they are to be kept
    adaptive: str | PairedLoss | None = None  # a loss that PGD raises besides the suite's own

    def large(self, eps: float) -> float:
        """The size of a change by ``eps`` in every pixel, in the norm of the threat model."""
        return eps * self.images.x[0].numel() ** 0.5 if self.threat.norm == "l2" else eps

    def starts(self, attack: Attack, places: np.ndarray, *key: int | str) -> Tensor | None:
        """Where the searches of ``attack`` begin: the images at ``places`` plus their own noise.

        An image's noise depends on the seed, ``key`` and its position in the split alone: not on
        the batch that it is in, nor on the images that an earlier attack has broken. Shape
        ``(searches, len(places), channels, H, W)``; may lie outside [0, 1], which the attack mends.
        ``None`` if the attack draws no noise.
        """
        x, _ = self.images.rows(places)
        noise = [
            attack.draw_noise((1, *x.shape[1:]), generator=generator(self.seed, *key, int(index)))
            for index in self.images.index[places]
        ]
        drawn = [each for each in noise if each is not None]
        return x + torch.cat(drawn, dim=1).to(x.device) if drawn else None

    def compute(
        self, stage: str, places: np.ndarray, function: Compute, part: object = ""
    ) -> Piece:
        """What ``function`` computes for the images at ``places``, a batch at a time, each once.

        The pieces are cached under ``stage`` and ``part``, which together must be unique. If
        ``places`` is empty, the result is an empty dict.
        """
        batches = {
            f"{stage} {part} {number}": places[begin : begin + self.batch_size]
            for number, begin in enumerate(range(0, len(places), self.batch_size))
        }
        self.progress(stage, 0, len(places))
        pieces: dict[str, Piece] = {}
        for name, piece in self.cache.each(
            {name: partial(self._seeded, name, function, batch) for name, batch in batches.items()}
        ):
            pieces[name] = piece
            self.progress(stage, len(batches[name]), len(places))
        in_order = [pieces[name] for name in batches]
        names = in_order[0] if in_order else ()
        return {name: np.concatenate([each[name] for each in in_order]) for name in names}

    def _seeded(self, name: str, function: Compute, places: np.ndarray) -> Piece:
        """``function`` of a batch; what a random network draws depends on seed and ``name``."""
        x, y = self.images.rows(places)
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(generator(self.seed, "network", name).initial_seed())
            return function(places, x, y)

    def pixels(self, x_adv: Tensor) -> Piece:
        """``x_adv`` of a batch as a part of its piece, if images are to be kept."""
        return {} if self.worst is None else {"x_adv": x_adv.cpu().numpy()}

    def keep(self, places: np.ndarray, found: Piece, broken: np.ndarray) -> None:
        """Keep the :meth:`pixels` of what was found at ``places``, if there are any."""
        if self.worst is not None and found:
            self.worst.add(places, found["x_adv"], broken)

    def say_cost(self, passes: Mapping[str, tuple[int, nn.Module, bool]]) -> None:
        """Say what so many passes an image cost, by one timed pass of a batch of each kind.

        By kind: how many, of which network, and whether backward too.
        """
        x, _ = self.images.rows(np.arange(min(len(self.images.y), self.batch_size)))
        counts = {kind: count for kind, (count, *_) in passes.items()}

        timed = (
            count * _seconds(network, x, backward=backward)
            for count, network, backward in passes.values()
            if count
        )
        self.progress.cost(len(self.images.y), counts, sum(timed) / len(x))

    def left(
        self, stage: str, correct: np.ndarray, survive: Compute, part: object = ""
    ) -> np.ndarray:
        """Which of the ``correct`` images an attack leaves correct, bool ``(n,)`` both.

        ``survive`` gives them as ``left`` of a piece, with :meth:`pixels`.
        """
        left, places = np.zeros(len(correct), bool), correct.nonzero()[0]
        found = self.compute(stage, places, survive, part)
        left[places] = found.get("left", False)
        self.keep(places, found, ~left[places])
        return left

    def scored(self, network: nn.Module, x_adv: Tensor, y: Tensor) -> Piece:
        """Which attacked images are classified correctly, for :meth:`left`."""
        return {"left": correct_on(network, x_adv, y)} | self.pixels(x_adv)

    def left_by_extras(self, network: nn.Module, correct: np.ndarray) -> dict[str, np.ndarray]:
        """Which of the ``correct`` images each of :attr:`extra_attacks` leaves correct, by name."""

        def left(name: str, attack: Attack) -> np.ndarray:
            def survive(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
                return self.scored(network, self.extra_attack(name, network, places, x, y), y)

            return self.left(name, correct, survive, described(attack))

        return {name: left(name, attack) for name, attack in self.extra_attacks.items()}

    def extra_attack(
        self, name: str, network: nn.Module, places: np.ndarray, x: Tensor, y: Tensor
    ) -> Tensor:
        """What one of :attr:`extra_attacks` finds, put back into the threat model."""
        attack, key = self.extra_attacks[name], ("extra_attack", name)
        rest = generator(self.seed, *key, "rest", int(self.images.index[places[0]]))
        start = self.starts(attack, places, *key)
        x_adv = attack(network, x, y, start=start, generator=rest)
        return self.threat.threat.project(x_adv, x)


class Outcome(NamedTuple):
    """What a suite found out about one network."""

    # By metric: which images are still classified correctly, (n,), or (n, passes) of a random
    # network.
    correct: dict[str, np.ndarray]
    details: dict[str, Any]  # more fields of the EvaluationRecord
    arrays: dict[str, np.ndarray]  # more for the file of verdicts
    # The worst attack's name, and its images, float32 (n, channels, H, W), if they are to be kept.
    kept: tuple[str, np.ndarray] | None = None


def _seconds(network: nn.Module, x: Tensor, *, backward: bool) -> float:
    """How long a pass of a batch takes, the device's waiting included."""
    for images in (x[:2], x):  # the first pass of all has more to do
        begin = time.monotonic()
        with attack_mode(network), torch.set_grad_enabled(backward):
            leaf = images.detach().requires_grad_(backward)
            result = network(leaf).sum()
            if backward:
                (result,) = torch.autograd.grad(result, leaf)
            result.cpu()
    return time.monotonic() - begin


def correct_on(network: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Which images are classified correctly, bool ``(B,)``; raises as ``predict``."""
    return (predict(network, x).argmax(dim=1) == y).cpu().numpy()


def described(attack: Attack) -> dict[str, Any]:
    """An attack's class, settings and, if it is the user's own, code, as JSON."""
    kind = type(attack)
    code = sources([kind], package=False)
    told = {"_target_": f"{kind.__module__}.{kind.__qualname__}"} | attack.as_dict()
    return told | ({"code": code} if code else {})
