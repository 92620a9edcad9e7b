"""What the strong suite does besides AutoAttack: searches by PGD, and probes of the gradient."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrm_lightning.attacks import PGDAttack, attack_mode
from lrm_lightning.attacks.forward import predict
from lrm_lightning.attacks.pgd import NEVER
from lrm_lightning.evaluation.bench import Bench, correct_on
from lrm_lightning.evaluation.cache import Piece
from lrm_lightning.evaluation.metrics import ADAPTIVE
from lrm_lightning.losses import Objective, cross_entropy, dlr
from lrm_lightning.models.view import attack_view
from lrm_lightning.runs.networks import weights_sha256

TRANSFER_STEPS = 10
# The strong suite's searches that differ in their loss alone, the last one if a loss was given.
BY_LOSS = ("pgd_ce", "pgd_margin", "pgd_dlr", ADAPTIVE)
# Points near an image that a planted example must differ from.
INNER = 10
# Below it float32 numbers lose precision one bit at a time.
SMALLEST = float(torch.finfo(torch.float32).tiny)


class Search(NamedTuple):
    """What PGD searches did to each image, one after another; any misclassified iterate counts."""

    held: np.ndarray  # correct on the clean image and in all searches up to each, (searches, n)
    # Steps after which the first search broke the image, NEVER if it did not or the clean image was
    # misclassified anyway, int64 (n,).
    needed: np.ndarray


def search(
    network: nn.Module,
    bench: Bench,
    stage: str,
    attack: PGDAttack,
    correct: np.ndarray,
    targets: np.ndarray | None = None,
) -> Search:
    """PGD from random starts; of an image that one search broke the next ones do not attack it.

    ``attack`` does as many searches as it has restarts or, if it is targeted, one for each of the
    ``targets``, int ``(n, searches)``; any misclassification counts all the same. Images that are
    not ``correct`` without an attack, bool ``(n,)``, count as broken.
    """
    alive, held, needed = correct, [], []
    single = replace(attack, restarts=1)
    for number in range(attack.restarts if targets is None else targets.shape[1]):

        def count(places: np.ndarray, x: Tensor, y: Tensor, number: int = number) -> Piece:
            start = bench.starts(single, places, stage, number)
            start = x if start is None else start[0]
            target = None if targets is None else torch.from_numpy(targets[places, number]).to(y)
            x_adv = torch.empty_like(x)
            into = {} if bench.worst is None else {"found": x_adv}
            steps = single.steps_to_break(network, x, y, start=start, target=target, **into)
            return {"needed": steps.cpu().numpy()} | bench.pixels(x_adv)

        places = alive.nonzero()[0]
        needed.append(np.full(len(correct), NEVER))
        found = bench.compute(stage, places, count, number)
        needed[-1][places] = found.get("needed", NEVER)
        alive = alive & (needed[-1] == NEVER)
        bench.keep(places, found, ~alive[places])
        held.append(alive)
    return Search(np.stack(held), needed[0])


def likely_targets(logits: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` wrong classes an image, most likely first: int ``(n, min(count, C - 1))``.

    ``logits`` are those of the clean images, ``(n, C)``.
    """
    wrong = logits.astype(np.float64)
    wrong[np.arange(len(labels)), labels] = -np.inf
    return np.argsort(-wrong, axis=1, kind="stable")[:, : min(count, logits.shape[1] - 1)]


def has_gradient(network: nn.Module, x: Tensor) -> bool:
    """Whether a gradient flows from the logits to the pixels ``x``, be it zero."""
    with attack_mode(network):
        leaf = x.detach().requires_grad_()
        logits = network(leaf)
        if not logits.requires_grad:
            return False
        return torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is not None


def gradient_health(
    network: nn.Module, bench: Bench, correct: np.ndarray, *, nearness: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the loss gradient of each of the ``correct`` images vanishes, and where it points.

    The latter is the cosine between it and the gradient after a random step of ``nearness`` eps, 0
    where either vanished; ``(m,)`` both, of the ``m`` correct images in order.
    """
    step = replace(bench.threat, eps=bench.threat.eps * nearness, random_start=True)

    def compare(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
        near = bench.starts(step, places, "gradient")
        assert near is not None  # it is a random start
        here, there = (_gradient(network, each, y) for each in (x, near[0].clamp(0, 1)))
        sizes = torch.stack([here.abs().amax(dim=1), there.abs().amax(dim=1)])
        usable = (sizes >= SMALLEST).all(dim=0)
        # Brought to size 1 first: squares of small gradients underflow.
        here, there = (
            each.double() / size.double().clamp(min=SMALLEST)[:, None]
            for each, size in zip((here, there), sizes, strict=True)
        )
        cosine = torch.where(usable, F.cosine_similarity(here, there, dim=1), 0.0)
        return {"vanished": (sizes[0] < SMALLEST).cpu().numpy(), "cosine": cosine.cpu().numpy()}

    found = bench.compute("gradient", correct.nonzero()[0], compare)
    return found.get("vanished", np.zeros(0, bool)), found.get("cosine", np.zeros(0))


def _gradient(network: nn.Module, x: Tensor, y: Tensor, loss: Objective = cross_entropy) -> Tensor:
    """Gradient of each image's loss with respect to its pixels, shape ``(B, pixels)``."""
    with attack_mode(network):
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(network(leaf), y).sum(), leaf)
    if not gradient.isfinite().all():
        raise ValueError("the model's gradients are NaN or infinite")
    return gradient.flatten(1)


def zero_gradient(network: nn.Module, bench: Bench, correct: np.ndarray) -> np.ndarray:
    """At which of the ``correct`` images the gradient of DLR is exactly 0, bool ``(m,)``."""

    def look(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
        return {"zero": (_gradient(network, x, y, dlr) == 0).all(dim=1).cpu().numpy()}

    found = bench.compute("zero_gradient", correct.nonzero()[0], look)
    return found.get("zero", np.zeros(0, bool))


class Path(NamedTuple):
    """Cross-entropy, and whether the image is misclassified, at each iterate of PGD."""

    loss: np.ndarray  # (m, steps + 1), of the m images in order
    fooled: np.ndarray  # bool, the same shape


def follow(network: nn.Module, bench: Bench, attack: PGDAttack, correct: np.ndarray) -> Path:
    """The whole first search of ``pgd_ce`` on each of the ``correct`` images."""
    counts = range(attack.steps + 1)

    def observe(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
        starts = bench.starts(replace(attack, restarts=1), places, "pgd_ce", 0)
        start = x if starts is None else starts[0]
        found = attack.trajectory(network, x, y, counts, start=start, keep_images=False)
        logits = [found.iterates[count].logits for count in counts]
        loss = torch.stack([cross_entropy(each, y) for each in logits], dim=1)
        fooled = torch.stack([each.argmax(dim=1) != y for each in logits], dim=1)
        return {"loss": loss.cpu().numpy(), "fooled": fooled.cpu().numpy()}

    none = np.zeros((0, len(counts)))
    found = bench.compute("path", correct.nonzero()[0], observe)
    return Path(found.get("loss", none), found.get("fooled", none.astype(bool)))


class Planted(nn.Module):
    """Two classes, of which each image of a batch has the second one near a ``planted`` image.

    The second logit is linear in those of the ``network``, with weights of its own for each image:
    at most -0.9 on ``inner`` images, ``(k, B, C, H, W)``, and 0.1 on the planted one, if
    :attr:`separable` says so, bool ``(B,)``; elsewhere there is nothing to find.
    """

    def __init__(self, network: nn.Module, inner: Tensor, planted: Tensor) -> None:
        super().__init__()
        self.network = network
        inside = torch.stack([predict(network, each) for each in inner]).double()
        center = inside.mean(dim=0)
        direction = predict(network, planted).double() - center
        size = direction.square().sum(dim=1)
        most = ((inside - center) * direction).sum(dim=2).amax(dim=0)
        # Rounding in float32 must not decide.
        self.separable = (size - most > 1e-3 * size) & (size > 0)
        gap = torch.where(self.separable, size - most, 1)
        self._weights = direction / gap[:, None]
        self._bias = (center * self._weights).sum(dim=1) + most / gap + 0.9

    def forward(self, x: Tensor) -> Tensor:
        second = (self.network(x).double() * self._weights).sum(dim=1) - self._bias
        return torch.stack([torch.zeros_like(second), second], dim=1).to(x.dtype)


def unit_test(
    network: nn.Module, bench: Bench, attack: PGDAttack, correct: np.ndarray
) -> np.ndarray:
    """Whether ``attack`` finds an adversarial example that was planted in its ball, bool ``(m,)``.

    Beside each of the ``correct`` images a random point on the ball's surface gets another class
    than points within half the radius, by a linear readout of the network's logits: an attack that
    follows a sound gradient finds it. Images for which no readout tells them apart are left out.

    References:
        Zimmermann et al. 2022, arXiv:2206.13991, who fit the readout to the last hidden layer.
    """
    threat = attack.threat
    near = replace(attack, eps=threat.eps / 2, random_start=True, restarts=INNER)
    far = replace(attack, random_start=True, restarts=1)
    searching = replace(attack, restarts=1, keep="best")

    def search_planted(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
        around, surface = (bench.starts(each, places, "planted") for each in (near, far))
        assert around is not None  # both start at random
        assert surface is not None
        direction = threat.steepest(surface[0] - x)
        planted = threat.project(x + threat.eps * direction, x)
        inner = torch.stack([x, *(each.clamp(0, 1) for each in around)])
        problem = Planted(attack_view(network, attack.engine), inner, planted)
        start = bench.starts(searching, places, "unit_test")
        x_adv = searching(problem, x, torch.zeros_like(y), start=start)
        found = ~torch.from_numpy(correct_on(problem, x_adv, torch.zeros_like(y)))
        return {"found": found.numpy(), "separable": problem.separable.cpu().numpy()}

    found = bench.compute("unit_test", correct.nonzero()[0], search_planted)
    return found["found"][found["separable"]] if found else np.zeros(0, bool)


def transfer_after(network: nn.Module, bench: Bench, held: np.ndarray) -> dict[str, np.ndarray]:
    """Which of the images that other attacks ``held`` each source's PGD examples leave correct."""
    attack = replace(bench.threat, steps=TRANSFER_STEPS)

    def left(name: str, source: nn.Module) -> np.ndarray:
        def survive(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
            start = bench.starts(attack, places, "transfer", name)
            return bench.scored(network, attack(source, x, y, start=start), y)

        # A name need not always mean the same weights.
        return bench.left("transfer", held, survive, f"{name} {weights_sha256(source)}")

    return {name: left(name, source) for name, source in bench.sources.items()}
