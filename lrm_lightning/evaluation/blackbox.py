"""The paper's black-box evaluation: examples made on one network, scored on another (Table 2)."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.evaluation.bench import predict
from lrm_lightning.evaluation.images import Images, starts
from lrm_lightning.evaluation.journal import Journal
from lrm_lightning.evaluation.progress import Progress


def transfer_matrix(
    sources: Mapping[str, nn.Module],
    targets: Mapping[str, nn.Module],
    images: Images,
    attack: PGDAttack,
    *,
    seed: int = 0,
    batch_size: int = 100,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Which images each target classifies correctly, attacked on each source.

    Each source's examples are made once and shown to every target; all images are attacked, whether
    the source classifies them correctly or not.

    Args:
        sources: Networks by name.
        targets: Networks by name.
        images: What is attacked.
        attack: How; the paper's is PGD with 10 steps and a random start.
        seed: Seed of the random starts, which are the same on every source.
        batch_size: Images attacked at a time.
        journal: Keeps finished batches.
        progress: Shows them; every source is a stage.

    Returns:
        Verdicts, bool ``(targets, sources, n)``.

    Raises:
        ValueError: If a network returns something else than finite logits.

    References:
        Summers & Dinneen, Table 2.
    """
    journal = journal or Journal()
    n = len(images.y)
    correct = np.zeros((len(targets), len(sources), n), bool)
    for column, (name, source) in enumerate(sources.items()):
        if progress is not None:
            progress.begin(name, n)
        for number, begin in enumerate(range(0, n, batch_size)):
            places = np.arange(begin, min(begin + batch_size, n))

            def compute(
                source: nn.Module = source, places: np.ndarray = places
            ) -> dict[str, np.ndarray]:
                x, y = images.rows(places)
                start = starts(attack, images, places, seed, "blackbox")
                x_adv = attack(source, x, y, start=start)
                verdicts = [predict(each, x_adv).argmax(dim=1) == y for each in targets.values()]
                return {"correct": torch.stack(verdicts).cpu().numpy()}

            unit = f"{hashlib.sha256(name.encode()).hexdigest()[:8]}-{number}"
            correct[:, column, places] = journal.once(unit, compute)["correct"]
            if progress is not None:
                progress.done(len(places), computed=journal.computed)
    return correct
