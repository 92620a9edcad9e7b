"""Line 2: a row of the paper's Table 1: natural, FGSM, PGD-5, -10 and -20."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.entrants import ENGINES, OURS, Entrant, entrant
from benchmarks.result import Result
from benchmarks.same_work import DifferentWorkError, check_verdicts
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved
from lrm_lightning.attacks import PGDAttack
from lrm_lightning.models.view import attack_view

STEPS = (5, 10, 20)
# How often an image passes: natural with its gradient for FGSM, FGSM's logits, the steps, and the
# last iterate's logits.
PASSES = {"forward": max(STEPS) + 3, "input": max(STEPS) + 1}
NAMES = ("natural", "FGSM", *(f"PGD-{steps}" for steps in STEPS))


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """One trajectory an image against five attacks with an accuracy pass each."""
    images = len(subject.x)
    contestants = {name: partial(row, subject, settings, each) for name, each in ENGINES.items()}
    for name in subject.entrants:
        contestants[name] = partial(_peer, entrant(name, subject.network), subject, settings)
    seconds, rows = interleaved(contestants, settings.rounds, settings.device)
    result = Result(f"row of Table 1, {images} images", seconds, images)
    result.refuse(disagreeing(rows))
    accuracies = {name: each.float().mean(dim=1).tolist() for name, each in rows.items()}
    result.details = {
        "columns": NAMES,
        "accuracies": accuracies,
        "passes": PASSES,
    }
    return [result]


def workload(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> object:
    """The same row of a trajectory of ``steps`` steps."""
    wanted = [max(1, steps // 4), max(1, steps // 2), steps]
    return PGDAttack().trajectory(attack_view(network, "fast"), x, y, wanted, keep_images=False)


def disagreeing(rows: dict[str, Tensor]) -> dict[str, str]:
    """Contestants whose verdicts, bool ``(attacks, n)``, differ from ours in any row, and how.

    Raises:
        DifferentWorkError: If that is our own reference engine.
    """
    refused = {}
    for name, verdicts in rows.items():
        try:
            for correct, reference in zip(verdicts, rows[OURS], strict=True):
                check_verdicts(correct, reference)
        except DifferentWorkError as difference:
            if name in ENGINES:
                raise
            refused[name] = str(difference)
    return refused


def row(subject: Subject, settings: Settings, engine: str) -> Tensor:
    """Our verdicts, bool ``(attacks, n)``."""
    view, found = attack_view(subject.network, engine), []
    for x, y in zip(*(each.split(settings.batch) for each in (subject.x, subject.y)), strict=True):
        path = settings.attack.trajectory(view, x, y, STEPS, keep_images=False)
        logits = [path.logits, path.fgsm.logits, *(path.iterates[k].logits for k in STEPS)]
        found.append(torch.stack([each.argmax(dim=1) == y for each in logits]))
    return torch.cat(found, dim=1)


def _peer(competitor: Entrant, subject: Subject, settings: Settings) -> Tensor:
    found = []
    eps, step_size = settings.attack.eps, settings.attack.step_size
    images = subject.x.contiguous(memory_format=competitor.layout)
    for x, y in zip(*(each.split(settings.batch) for each in (images, subject.y)), strict=True):
        attacks = [{"step_size": eps, "steps": 1, "random_start": False}]
        attacks += [{"step_size": step_size, "steps": steps} for steps in STEPS]
        verdicts = [competitor.predicts(x, y)]
        verdicts += [
            competitor.predicts(competitor.attack(x, y, eps=eps, **sizes), y) for sizes in attacks
        ]
        found.append(torch.stack(verdicts))
    return torch.cat(found, dim=1)
