"""Attacks on a trained network: a row of Table 1, and a step curve."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.peers import PEERS, Peer, Sizes
from benchmarks.same_work import DifferentWorkError, check_verdicts
from benchmarks.subject import ATTACK, ENGINES, OURS, Settings, Subject, copy_for, correct
from benchmarks.timing import Result, interleaved
from lrm_lightning.attacks import PGDAttack

STEPS = (5, 10, 20)
NAMES = ("natural", "FGSM", *(f"PGD-{steps}" for steps in STEPS))

# Of a batch, what is made of it by each attack in turn: our attack's logits (B, C), and a peer's
# verdicts, bool (B,).
Ours = Callable[[PGDAttack, Tensor, Tensor], list[Tensor]]
Theirs = Callable[[Peer, nn.Module, Tensor, Tensor], list[Tensor]]


def table_row(subject: Subject, settings: Settings) -> list[Result]:
    """One trajectory an image against five attacks with an accuracy pass each."""
    fgsm = Sizes(ATTACK.eps, ATTACK.eps, 1, random_start=False)

    def ours(attack: PGDAttack, x: Tensor, y: Tensor) -> list[Tensor]:
        path = attack.trajectory(subject.network, x, y, STEPS, keep_images=False)
        return [path.logits, path.fgsm.logits, *(path.iterates[k].logits for k in STEPS)]

    def theirs(peer: Peer, network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
        attacks = (fgsm, *(Sizes(steps=k) for k in STEPS))
        found = [peer.attack(network, x, y, sizes) for sizes in attacks]
        return [correct(network, each, y) for each in (x, *found)]

    title = f"row of Table 1, {len(subject.x)} images"
    result, rows = _measured(title, ours, theirs, subject, settings)
    _compare(result, rows, NAMES)
    return [result]


def step_curve(subject: Subject, settings: Settings) -> list[Result]:
    """One trajectory against attacks of a single step, each with an accuracy pass."""
    images, steps = max(8, settings.images // 4), settings.curve_steps
    subject = subject._replace(x=subject.x[:images], y=subject.y[:images])
    eps, step_size = ATTACK.eps, ATTACK.step_size
    one = Sizes(step_size, step_size, 1, random_start=False)

    def ours(attack: PGDAttack, x: Tensor, y: Tensor) -> list[Tensor]:
        path = attack.trajectory(subject.network, x, y, range(steps + 1), keep_images=False)
        return [each.logits for each in path.iterates.values()]

    def pieces(peer: Peer, network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
        """The curve through a library's public interface.

        None of them hands out the iterates on the way. An attack of k steps for every k would cost
        steps^2 / 2; the cheapest is one step at a time, which is FGSM from the former iterate, its
        result put back into the ball here, and an accuracy pass.
        """
        x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        rows = [correct(network, x_adv, y)]
        for _ in range(steps):
            moved = peer.attack(network, x_adv, y, one)
            x_adv = torch.clamp(x + (moved - x).clamp(-eps, eps), 0, 1)
            rows.append(correct(network, x_adv, y))
        return rows

    title = f"step curve to {steps}, {images} images"
    result, curves = _measured(title, ours, pieces, subject, settings)
    # Neighbouring points share their images; a few of them tell as much as all.
    chosen = [0, steps // 20, steps // 4, steps]
    rows = {name: curve[chosen] for name, curve in curves.items()}
    _compare(result, rows, [f"PGD-{step}" for step in chosen])
    return [result]


def _measured(
    title: str, ours: Ours, theirs: Theirs, subject: Subject, settings: Settings
) -> tuple[Result, dict[str, Tensor]]:
    """Times of all contestants, and their verdicts, bool ``(attacks, n)``."""

    def in_batches(row: Callable[[Tensor, Tensor], list[Tensor]]) -> Tensor:
        batches = zip(subject.x.split(settings.batch), subject.y.split(settings.batch), strict=True)
        return torch.cat([torch.stack(row(x, y)) for x, y in batches], dim=1)

    def by_us(engine: str) -> Tensor:
        attack = PGDAttack(engine=engine)
        return in_batches(lambda x, y: [each.argmax(dim=1) == y for each in ours(attack, x, y)])

    def by_them(name: str) -> Tensor:
        peer, network = PEERS[name], copy_for(name, subject.network)
        return in_batches(
            lambda x, y: theirs(peer, network, x.contiguous(memory_format=peer.layout), y)
        )

    contestants = {name: partial(by_us, engine) for name, engine in ENGINES.items()}
    contestants |= {name: partial(by_them, name) for name in subject.peers}
    seconds, rows = interleaved(contestants, settings.rounds, settings.device)
    return Result(title, seconds, len(subject.x)), rows


def _compare(result: Result, rows: dict[str, Tensor], columns: Sequence[str]) -> None:
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
