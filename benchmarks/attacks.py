"""Attacks on a trained network: a row of Table 1, and a step curve."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import PEERS, Sizes
from benchmarks.same_work import DifferentWorkError, check_verdicts
from benchmarks.subject import ATTACK, ENGINES, OURS, Settings, Subject, copy_for, correct
from benchmarks.timing import Result, interleaved
from lrm_lightning.attacks import PGDAttack

STEPS = (5, 10, 20)
NAMES = ("natural", "FGSM", *(f"PGD-{steps}" for steps in STEPS))


def table_row(subject: Subject, settings: Settings) -> list[Result]:
    """One trajectory an image against five attacks with an accuracy pass each."""

    def ours(engine: str) -> Tensor:
        attack = PGDAttack(engine=engine)

        def row(x: Tensor, y: Tensor) -> Tensor:
            path = attack.trajectory(subject.network, x, y, STEPS, keep_images=False)
            logits = [path.logits, path.fgsm.logits, *(path.iterates[k].logits for k in STEPS)]
            return torch.stack([each.argmax(dim=1) == y for each in logits])

        return _in_batches(row, subject, settings)

    def theirs(name: str) -> Tensor:
        peer, network = PEERS[name], copy_for(name, subject.network)
        attacks = [
            Sizes(ATTACK.eps, ATTACK.eps, 1, random_start=False),
            *(Sizes(steps=k) for k in STEPS),
        ]

        def row(x: Tensor, y: Tensor) -> Tensor:
            x = x.contiguous(memory_format=peer.layout)
            found = [peer.attack(network, x, y, sizes) for sizes in attacks]
            return torch.stack([correct(network, each, y) for each in (x, *found)])

        return _in_batches(row, subject, settings)

    contestants = {name: partial(ours, engine) for name, engine in ENGINES.items()}
    contestants |= {name: partial(theirs, name) for name in subject.peers}
    seconds, rows = interleaved(contestants, settings.rounds, settings.device)
    images = len(subject.x)
    result = Result(f"row of Table 1, {images} images", seconds, images)
    _compare(result, rows, NAMES)
    return [result]


def step_curve(subject: Subject, settings: Settings) -> list[Result]:
    """One trajectory against attacks of a single step, each with an accuracy pass."""
    images, steps = max(8, settings.images // 4), settings.curve_steps
    subject = subject._replace(x=subject.x[:images], y=subject.y[:images])
    eps, step_size = ATTACK.eps, ATTACK.step_size

    def ours(engine: str) -> Tensor:
        attack = PGDAttack(engine=engine)

        def curve(x: Tensor, y: Tensor) -> Tensor:
            path = attack.trajectory(subject.network, x, y, range(steps + 1), keep_images=False)
            return torch.stack([each.logits.argmax(dim=1) == y for each in path.iterates.values()])

        return _in_batches(curve, subject, settings)

    def pieces(name: str) -> Tensor:
        """The curve through a library's public interface.

        None of them hands out the iterates on the way. An attack of k steps for every k would cost
        steps^2 / 2; the cheapest is one step at a time, which is FGSM from the former iterate, its
        result put back into the ball here, and an accuracy pass.
        """
        peer, network = PEERS[name], copy_for(name, subject.network)
        one = Sizes(step_size, step_size, 1, random_start=False)

        def curve(x: Tensor, y: Tensor) -> Tensor:
            x = x.contiguous(memory_format=peer.layout)
            x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
            rows = [correct(network, x_adv, y)]
            for _ in range(steps):
                moved = peer.attack(network, x_adv, y, one)
                x_adv = torch.clamp(x + (moved - x).clamp(-eps, eps), 0, 1)
                rows.append(correct(network, x_adv, y))
            return torch.stack(rows)

        return _in_batches(curve, subject, settings)

    contestants = {name: partial(ours, engine) for name, engine in ENGINES.items()}
    contestants |= {name: partial(pieces, name) for name in subject.peers}
    seconds, curves = interleaved(contestants, settings.rounds, settings.device)
    result = Result(f"step curve to {steps}, {images} images", seconds, images)
    # Neighbouring points share their images; a few of them tell as much as all.
    chosen = [0, steps // 20, steps // 4, steps]
    rows = {name: curve[chosen] for name, curve in curves.items()}
    _compare(result, rows, [f"PGD-{step}" for step in chosen])
    return [result]


def _in_batches(
    row: Callable[[Tensor, Tensor], Tensor], subject: Subject, settings: Settings
) -> Tensor:
    """Verdicts, bool ``(attacks, n)``, a batch at a time."""
    batches = zip(subject.x.split(settings.batch), subject.y.split(settings.batch), strict=True)
    return torch.cat([row(x, y) for x, y in batches], dim=1)


def _compare(result: Result, rows: dict[str, Tensor], columns: Any) -> None:  # noqa: ANN401
    """Refuse contestants whose verdicts differ from ours, and keep the accuracies."""
    refused = {}
    for name, verdicts in rows.items():
        try:
            check_verdicts(verdicts, rows[OURS])
        except DifferentWorkError as difference:
            if name in ENGINES:
                raise
            refused[name] = str(difference)
    result.refuse(refused)
    accuracies = {name: each.float().mean(dim=1).tolist() for name, each in rows.items()}
    result.details = {"columns": list(columns), "accuracies": accuracies}
