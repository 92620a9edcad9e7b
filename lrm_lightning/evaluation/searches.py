"""PGD as an adversary uses it: any misclassified iterate of any restart counts."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.pgd import NEVER
from lrm_lightning.evaluation.bench import Bench
from lrm_lightning.evaluation.images import starts


class Search(NamedTuple):
    """What PGD with restarts did to each image.

    Attributes:
        held: Correct on the clean image and in all searches up to each, bool ``(restarts, n)``.
        needed: Steps after which the first search broke the image, ``NEVER`` if it did not or the
            clean image was misclassified anyway, int16 ``(n,)``.
    """

    held: np.ndarray
    needed: np.ndarray


def search(bench: Bench, stage: str, attack: PGDAttack, correct: np.ndarray) -> Search:
    """PGD with restarts; of an image that one search broke the next ones do not attack it.

    Args:
        bench: Network and images.
        stage: Name of the stage.
        attack: Untargeted, with its ``steps`` and ``restarts``.
        correct: Images classified correctly without an attack, bool ``(n,)``; the others count as
            broken.
    """
    alive = correct.copy()
    held, first = [], np.full(len(correct), NEVER)
    for restart in range(attack.restarts):

        def compute(places: np.ndarray, restart: int = restart) -> dict[str, np.ndarray]:
            x, y = bench.images.rows(places)
            start = starts(attack, bench.images, places, bench.seed, stage, restart)
            return {"needed": _steps(attack.steps_to_break(bench.network, x, y, start=start))}

        blank = {"needed": np.full(len(correct), NEVER)}
        needed = bench.fill(stage, alive.nonzero()[0], compute, blank, part=str(restart))["needed"]
        first = needed if restart == 0 else first
        alive = alive & (needed == NEVER)
        held.append(alive)
    return Search(np.stack(held), first)


def targeted_search(
    bench: Bench, stage: str, attack: PGDAttack, logits: np.ndarray, correct: np.ndarray, aims: int
) -> np.ndarray:
    """PGD towards each of the most likely wrong classes; any misclassification counts.

    Args:
        bench: Network and images.
        stage: Name of the stage.
        attack: Targeted, one search a class.
        logits: Clean logits ``(n, C)``, which rank the classes.
        correct: As for :func:`search`.
        aims: How many wrong classes, most likely first; all if there are no more.

    Returns:
        Images that held against all searches, bool ``(n,)``.
    """
    labels = bench.images.y.cpu().numpy()
    wrong = logits.astype(np.float64)
    wrong[np.arange(len(labels)), labels] = -np.inf
    ranking = np.argsort(-wrong, axis=1, kind="stable")[:, :-1]
    alive = correct.copy()
    for rank in range(min(aims, ranking.shape[1])):

        def compute(places: np.ndarray, rank: int = rank) -> dict[str, np.ndarray]:
            x, y = bench.images.rows(places)
            target = torch.from_numpy(ranking[places, rank]).to(y)
            start = starts(attack, bench.images, places, bench.seed, stage, rank)
            steps = attack.steps_to_break(bench.network, x, y, start=start, target=target)
            return {"needed": _steps(steps)}

        blank = {"needed": np.full(len(correct), NEVER)}
        needed = bench.fill(stage, alive.nonzero()[0], compute, blank, part=str(rank))["needed"]
        alive = alive & (needed == NEVER)
    return alive


def _steps(needed: Tensor) -> np.ndarray:
    return needed.cpu().numpy().astype(np.int16)
