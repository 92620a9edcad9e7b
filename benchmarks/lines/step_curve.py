"""Line 3: accuracy after every step of a long attack."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.entrants import ENGINES, PLAIN, Entrant, entrant
from benchmarks.lines.table_row import disagreeing
from benchmarks.result import Result
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved
from lrm_lightning.attacks import PGDAttack
from lrm_lightning.models.view import attack_view

REUSED = f"{PLAIN}, its logits counted"


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """One trajectory against attacks of a single step, each with an accuracy pass."""
    images, steps = settings.fewer_images, settings.curve_steps
    subject = subject._replace(x=subject.x[:images], y=subject.y[:images])
    contestants = {name: partial(_ours, subject, settings, each) for name, each in ENGINES.items()}
    for name in subject.entrants:
        contestants[name] = partial(_pieces, entrant(name, subject.network), subject, settings)
    contestants[REUSED] = partial(_one_loop, entrant(PLAIN, subject.network), subject, settings)
    seconds, curves = interleaved(contestants, settings.rounds, settings.device)
    result = Result(f"step curve to {steps}, {images} images", seconds, images)
    # Neighbouring points share their images; a few of them tell as much as all.
    chosen = [0, steps // 20, steps // 4, steps]
    result.refuse(disagreeing({name: curve[chosen] for name, curve in curves.items()}))
    accuracies = {
        name: curve[chosen].float().mean(dim=1).tolist() for name, curve in curves.items()
    }
    result.details = {
        "columns": [f"PGD-{k}" for k in chosen],
        "accuracies": accuracies,
        "passes": {"forward": steps + 3, "input": steps + 1},
    }
    return [result]


def workload(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> object:
    """A curve to ``steps`` that keeps no images."""
    view = attack_view(network, "fast")
    return PGDAttack().trajectory(view, x, y, range(steps + 1), keep_images=False)


def _ours(subject: Subject, settings: Settings, engine: str) -> Tensor:
    view, steps, found = attack_view(subject.network, engine), settings.curve_steps, []
    for x, y in zip(*(each.split(settings.batch) for each in (subject.x, subject.y)), strict=True):
        path = settings.attack.trajectory(view, x, y, range(steps + 1), keep_images=False)
        rows = [path.iterates[k].logits.argmax(dim=1) == y for k in range(steps + 1)]
        found.append(torch.stack(rows))
    return torch.cat(found, dim=1)


def _pieces(competitor: Entrant, subject: Subject, settings: Settings) -> Tensor:
    """The curve through a library's public interface.

    None of them hands out the iterates on the way. An attack of k steps for every k would cost
    steps^2 / 2; the cheapest is one step at a time, which is FGSM from the former iterate, its
    result put back into the ball here, and an accuracy pass: two forwards and a backward a step.
    """
    found = []
    eps, step_size = settings.attack.eps, settings.attack.step_size
    one = {"eps": step_size, "step_size": step_size, "steps": 1, "random_start": False}
    images = subject.x.contiguous(memory_format=competitor.layout)
    for x, y in zip(*(each.split(settings.batch) for each in (images, subject.y)), strict=True):
        x_adv = _start(x, eps)
        rows = [competitor.predicts(x_adv, y)]
        for _ in range(settings.curve_steps):
            moved = competitor.attack(x_adv, y, **one)
            x_adv = _back(moved, x, eps)
            rows.append(competitor.predicts(x_adv, y))
        found.append(torch.stack(rows))
    return torch.cat(found, dim=1)


def _one_loop(competitor: Entrant, subject: Subject, settings: Settings) -> Tensor:
    """The plain loop by someone who thinks: the pass that gives the gradient gives the verdict.

    It is no library's and needs no accuracy pass; what is left between it and us is the engine.
    """
    found, network, attack = [], competitor.network, settings.attack
    for x, y in zip(*(each.split(settings.batch) for each in (subject.x, subject.y)), strict=True):
        x_adv, rows = _start(x, attack.eps), []
        for _ in range(settings.curve_steps):
            x_adv.requires_grad_()
            logits = network(x_adv)
            rows.append(logits.detach().argmax(dim=1) == y)
            F.cross_entropy(logits, y).backward()
            assert x_adv.grad is not None
            moved = x_adv.detach() + attack.step_size * x_adv.grad.sign()
            x_adv = _back(moved, x, attack.eps)
        rows.append(competitor.predicts(x_adv, y))
        found.append(torch.stack(rows))
    return torch.cat(found, dim=1)


def _start(x: Tensor, eps: float) -> Tensor:
    return (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)


def _back(moved: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.clamp(x + (moved - x).clamp(-eps, eps), 0, 1)
