"""Line 4: AutoAttack's first attack, APGD-CE, through our adapter and without it."""

import logging
from typing import Any, cast

import torch
from pyautoattack import AutoAttack
from torch import Tensor

from benchmarks.result import Result
from benchmarks.same_work import DifferentWorkError
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved
from lrm_lightning.attacks.autoattack import attack_batch
from lrm_lightning.models.view import attack_view


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """The official code both times, so that the ratio is what the adapter adds."""
    network = subject.network
    with torch.no_grad():
        right = network(subject.x).argmax(dim=1) == subject.y
    x, y = (each[right][: settings.fewer_images] for each in (subject.x, subject.y))
    x = x.contiguous(memory_format=torch.channels_last)
    attack, eps, steps = "apgd-ce", settings.attack.eps, settings.apgd_steps

    def adapted(engine: str) -> Tensor:
        view = attack_view(network, engine)
        piece = attack_batch(
            view, x, y, attack, eps=eps, norm="linf", seed=0, classes=10, iterations=steps
        )
        return torch.from_numpy(piece["broken"])

    def direct() -> Tensor:
        official = AutoAttack(network, norm="Linf", eps=eps, seed=0, device=x.device)
        official.attacks_to_run = [cast(Any, attack)]
        official.apgd.n_iter = steps
        _, y_adv = official.run_standard_evaluation(x, y, batch_size=len(x))
        return (y_adv != y).cpu()

    logger = logging.getLogger("auto-attack")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        seconds, broken = interleaved(
            {
                "our adapter": lambda: adapted("reference"),
                "pyautoattack": direct,
                "our adapter, fast engine": lambda: adapted("fast"),
            },
            settings.rounds,
            settings.device,
        )
    finally:
        logger.setLevel(level)
    if not torch.equal(broken["our adapter"], broken["pyautoattack"]):
        raise DifferentWorkError("the adapter breaks other images than the official code")
    result = Result(f"APGD-CE, {steps} iterations, {len(x)} images", seconds, len(x))
    result.details["broken"] = {name: int(each.sum()) for name, each in broken.items()}
    return [result]
