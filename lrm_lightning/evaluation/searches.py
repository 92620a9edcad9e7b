"""PGD as an adversary uses it: any misclassified iterate of any restart counts."""

from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.context import attack_mode
from lrm_lightning.attacks.loop import Point, Problem, ascend
from lrm_lightning.attacks.norms import NORMS
from lrm_lightning.attacks.objectives import OBJECTIVES
from lrm_lightning.evaluation.bench import Bench
from lrm_lightning.evaluation.images import starts

# Number of steps that says: never misclassified.
NEVER = np.iinfo(np.int16).max
# Broken images leave the search after so many steps.
SEGMENT = 20


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
            return {"needed": steps_to_break(bench.attacked, attack, x, y, start=start)}

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
            aim = torch.from_numpy(ranking[places, rank]).to(y)
            start = starts(attack, bench.images, places, bench.seed, stage, rank)
            return {"needed": steps_to_break(bench.attacked, attack, x, y, start=start, aim=aim)}

        blank = {"needed": np.full(len(correct), NEVER)}
        needed = bench.fill(stage, alive.nonzero()[0], compute, blank, part=str(rank))["needed"]
        alive = alive & (needed == NEVER)
    return alive


def steps_to_break(
    network: nn.Module,
    attack: PGDAttack,
    x: Tensor,
    y: Tensor,
    *,
    start: Tensor,
    aim: Tensor | None = None,
) -> np.ndarray:
    """Number of steps after which each image is first misclassified.

    Args:
        network: What is attacked.
        attack: Its norm, eps, step size, steps, loss and ``targeted``.
        x: Clean images, shape ``(B, 3, H, W)``.
        y: Labels, shape ``(B,)``.
        start: Where to begin, shape of ``x``.
        aim: Classes to reach, shape ``(B,)``, if ``attack.targeted``.

    Returns:
        int16 ``(B,)``: 0 if the start is misclassified already, ``NEVER`` if no iterate is.

    Raises:
        ValueError: As :func:`~lrm_lightning.attacks.pgd`.
    """
    needed = torch.full((len(x),), int(NEVER), device=x.device)
    alive, x_adv = torch.arange(len(x), device=x.device), start
    for begin in range(0, attack.steps, SEGMENT):
        segment = replace(attack, steps=min(SEGMENT, attack.steps - begin))
        goal = y[alive] if aim is None else aim[alive]
        after, x_adv = _segment(network, segment, x[alive], y[alive], goal, x_adv)
        broken = after < NEVER
        needed[alive[broken]] = begin + after[broken]
        alive, x_adv = alive[~broken], x_adv[~broken]
        if not len(alive):
            break
    return needed.cpu().numpy().astype(np.int16)


def _segment(
    network: nn.Module, attack: PGDAttack, x: Tensor, y: Tensor, goal: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Steps until misclassification or ``NEVER``, shape ``(B,)``, and the last images."""
    after = torch.full((len(x),), int(NEVER), device=x.device)
    x_adv = start
    with attack_mode(network):
        problem = Problem(
            network,
            x,
            goal,
            norm=NORMS[attack.norm],
            eps=attack.eps,
            loss=OBJECTIVES[attack.loss],
            targeted=attack.targeted,
            start=start,
        )
        (begin,) = islice(problem.starts(random_start=False, generator=None), 1)
        path = ascend(
            problem, Point(problem, begin), step_size=attack.step_size, steps=attack.steps
        )
        for step, point in enumerate(path):
            x_adv = point.x_adv
            newly = (point.logits.argmax(dim=1) != y) & (after == NEVER)
            after[newly] = step
            if bool((after < NEVER).all()):
                break
        problem.finish()
    return after, x_adv
