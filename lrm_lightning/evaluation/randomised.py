"""Attacks on networks whose output is random, and their accuracy as a mean over passes.

Attacks see the mean of several passes, and so its gradient. Each image that an attack finds is then
scored by fresh passes, so that no lucky draw of the attack counts. Of several attacks the one that
hurts an image most is chosen by the first half of its passes, and the second half is reported: the
choice doesn't bias the accuracy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.autoattack import attack_batch, count_classes
from lrm_lightning.attacks.forward import predict
from lrm_lightning.attacks.wrappers import Expectation, StraightThrough
from lrm_lightning.evaluation import masking
from lrm_lightning.evaluation.bench import Bench, correct_on, described
from lrm_lightning.evaluation.cache import Piece
from lrm_lightning.evaluation.searches import (
    BY_LOSS,
    TRANSFER_STEPS,
    gradient_health,
    zero_gradient,
)
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.networks import weights_sha256
from lrm_lightning.runs.records import LossNote, Sign

# As AutoAttack tells random networks from others: so many passes, and so large a difference.
PASSES = 5
DIFFERENCE = 1e-4
# What AutoAttack's version for random networks runs.
RAND = ("apgd-ce", "apgd-dlr")

# From places, pixels and labels of a batch: attacked images.
Find = Callable[[np.ndarray, Tensor, Tensor], Tensor]


def difference(network: nn.Module, x: Tensor) -> float:
    """Largest distance between two passes' logits for an image, as a share of their norm.

    References:
        Croce & Hein 2020, arXiv:2003.01690: ``check_randomized`` of the official code.
    """
    passes = [nn.functional.normalize(predict(network, x), dim=1) for _ in range(PASSES)]
    pairs = (one - other for one, other in combinations(passes, 2))
    return max(float(torch.linalg.vector_norm(each, dim=1).max()) for each in pairs)


@dataclass(frozen=True)
class RandomNetwork:
    """A network whose output is random, on a bench.

    Attributes:
        network: What is attacked.
        bench: The images and the threat model.
        flows: Whether a gradient flows from its logits to the pixels.
        eot: Passes whose mean is attacked.
        passes: Passes that are reported for each attacked image.
    """

    network: nn.Module
    bench: Bench
    flows: bool
    eot: int
    passes: int

    def attacked(
        self,
        attacks: Mapping[str, PGDAttack],
        official: Mapping[str, Any],
        apart: float,
        *,
        nearness: float,
    ) -> tuple[dict[str, np.ndarray], list[Sign], LossNote]:
        """By attack which passes are correct, bool ``(n, passes)``; signs; what one loss missed.

        ``attacks`` are the strong suite's, ``official`` the settings of AutoAttack; ``apart`` is
        what :func:`difference` found.
        """
        bench, mean = self.bench, Expectation(self.network, self.eot)
        clean = self.scores("clean", np.ones(len(bench.images.y), bool), lambda places, x, y: x)
        classes = count_classes(predict(self.network, bench.images.x[:1]))
        official = {**official, "classes": classes}
        tried, scores = clean.sum(axis=1) > 0, {"clean": clean}
        by_loss = [name for name in BY_LOSS if name in attacks]
        if self.flows:
            scores |= {name: self._by_pgd(name, attacks[name], mean, tried) for name in by_loss}
            one_pass = self._by_pgd("pgd_one_pass", attacks["pgd_ce"], self.network, tried)
            far = self._by_pgd("large_eps", attacks["large_eps"], mean, tried)
            find = partial(_by_autoattack, mean, RAND, official)
            scores |= {"pgd_one_pass": one_pass, "autoattack": self.scores("rand", tried, find)}
        best = self.worst([clean, *(scores[name] for name in by_loss if self.flows)])
        if self.flows:
            scores["pgd_best"] = best
        by_gradient = self.worst([best, scores["autoattack"]]) if self.flows else best
        held, surely = (self.surely(each, correct=True) for each in (by_gradient, clean))
        square = self.scores("square", held, partial(_by_autoattack, mean, ("square",), official))
        following = {"pgd_square": square}
        for name, source in bench.sources.items():
            attack, stage = replace(bench.threat, steps=TRANSFER_STEPS), f"transfer_{name}"
            part = weights_sha256(source)  # a name need not always mean the same weights
            following[stage] = self._by_pgd(stage, attack, source, held, part)
        # They were shown the images that gradient attacks had left.
        for name, found in following.items():
            scores[name] = np.where(held[:, None], self.worst([best, found]), best)
        for name, attack in bench.extra_attacks.items():
            find = partial(bench.extra_attack, name, mean)
            scores[name] = self.scores(name, tried, find, described(attack))
        if bench.surrogate is not None:
            through = Expectation(StraightThrough(self.network, bench.surrogate), self.eot)
            found = (self._by_pgd(f"bpda {k}", attacks[k], through, tried) for k in by_loss)
            scores["bpda"] = self.worst(list(found))
        scores["worst"] = self.worst(list(scores.values()))
        left = {name: ~self.surely(each, correct=False) for name, each in scores.items()}
        correct = {name: each[:, self.passes :] for name, each in scores.items()}
        sources = {name: left[f"transfer_{name}"] for name in bench.sources}
        signs = [masking.black_box(held, left["pgd_square"]), masking.transfer(held, sources)]
        tried_too = ("large_eps", "zero_gradient") if self.flows else ()
        untried = [name for name in masking.OF_PGD if name not in tried_too]
        signs += [masking.untried(name, "the output is random") for name in untried]
        if bench.surrogate is not None:
            signs.append(masking.straight_through(held, left["bpda"]))
        if not self.flows:
            signs.append(masking.no_gradient(int(surely.sum())))
            return correct, signs, LossNote()
        vanished, _ = gradient_health(mean, bench, surely, nearness=nearness)
        spread = max(float(each.mean(axis=0).std(ddof=1)) for each in correct.values())
        more = {"eot": self.eot, "difference": apart, "spread": spread}
        held_one_pass = self.surely(scores["pgd_one_pass"], correct=True)
        eps = attacks["large_eps"].eps
        signs += [
            masking.randomised(held_one_pass, left["pgd_ce"], **more),
            masking.large_eps(self.surely(far, correct=True), surely, eps=eps),
            masking.gradient(vanished, None),
            masking.zero_gradient(zero_gradient(mean, bench, surely)),
        ]
        held_by_ce = self.surely(scores["pgd_ce"], correct=True)
        return correct, signs, masking.mistaken_loss(held_by_ce, left["pgd_margin"])

    def scores(self, stage: str, tried: np.ndarray, find: Find, part: object = "") -> np.ndarray:
        """Which passes classify what ``find`` finds correctly, bool ``(n, 2 * passes)``.

        ``find`` is shown the images that are ``tried``, bool ``(n,)``; others count as wrong.
        ``part`` is that of :meth:`Bench.compute`.
        """

        def score(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
            x_adv = find(places, x, y)
            each = [correct_on(self.network, x_adv, y) for _ in range(2 * self.passes)]
            return {"correct": np.stack(each, axis=1)}

        correct = np.zeros((len(tried), 2 * self.passes), bool)
        found = self.bench.compute(stage, tried.nonzero()[0], score, part)
        correct[tried] = found.get("correct", False)
        return correct

    def worst(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """For each image the scores of the attack that hurts it most in the first half."""
        stacked = np.stack(scores)
        which = stacked[:, :, : self.passes].sum(axis=2).argmin(axis=0)
        return stacked[which, np.arange(stacked.shape[1])]

    def surely(self, scores: np.ndarray, *, correct: bool) -> np.ndarray:
        """Images that are ``correct``, or else wrong, more often than not beyond chance, ``(n,)``.

        The 95% Wilson interval of the share of the reported passes excludes a half.
        """
        ends = [wilson_interval(count, self.passes) for count in range(self.passes + 1)]
        sure = np.array([low > 0.5 if correct else high < 0.5 for low, high in ends])
        return sure[scores[:, self.passes :].sum(axis=1)]

    def _by_pgd(
        self,
        stage: str,
        attack: PGDAttack,
        victim: nn.Module,
        tried: np.ndarray,
        part: object = "",
    ) -> np.ndarray:
        def find(places: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
            return attack(victim, x, y, start=self.bench.starts(attack, places, stage))

        return self.scores(stage, tried, find, part)


def _by_autoattack(
    network: nn.Module,
    attacks: Sequence[str],
    settings: Mapping[str, Any],
    places: np.ndarray,
    x: Tensor,
    y: Tensor,
) -> Tensor:
    """What each of AutoAttack's ``attacks`` finds of the images that those before it left."""
    x_adv, left = x.clone(), torch.arange(len(x), device=x.device)
    for attack in attacks:
        if len(left):
            found = attack_batch(network, x[left], y[left], attack, **settings)
            broken = torch.from_numpy(found["broken"]).to(x.device)
            x_adv[left[broken]] = torch.from_numpy(found["x_adv"]).to(x)
            left = left[~broken]
    return x_adv
