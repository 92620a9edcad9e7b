"""Attacks that use no gradient of the network, on the images that its own PGD left correct."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from lrm_lightning.attacks.autoattack import STANDARD, Ensemble, attack_batch
from lrm_lightning.evaluation.bench import Bench, predict
from lrm_lightning.evaluation.images import starts
from lrm_lightning.evaluation.subjects import weights_sha256


def square_after_pgd(
    bench: Bench, held: np.ndarray, ensemble: Ensemble, *, classes: int, queries: int | None
) -> np.ndarray:
    """Square on what PGD left correct.

    Args:
        bench: Network and images.
        held: Images that PGD left correct, bool ``(n,)``.
        ensemble: What AutoAttack found: Square's verdicts on what its other attacks left count.
        classes: Number of classes.
        queries: As for :func:`~lrm_lightning.attacks.autoattack.autoattack`.

    Returns:
        Images that Square left correct too, bool ``(n,)``.

    References:
        Andriushchenko et al. 2020, arXiv:1912.00049.
    """
    before, after = ensemble.correct[STANDARD[-2]], ensemble.correct[STANDARD[-1]]

    def compute(places: np.ndarray) -> dict[str, np.ndarray]:
        piece = attack_batch(
            bench.network,
            *bench.images.rows(places),
            "square",
            eps=bench.threat.eps,
            norm=bench.threat.norm,
            seed=bench.seed,
            classes=classes,
            queries=queries,
        )
        return {"left": ~piece["broken"]}

    unseen = held & ~before
    return bench.fill("pgd_square", unseen.nonzero()[0], compute, {"left": held & after})["left"]


def transfer_after_pgd(
    bench: Bench, held: np.ndarray, sources: Mapping[str, nn.Module], *, steps: int
) -> dict[str, np.ndarray]:
    """Examples made on other networks with PGD, on what the network's own PGD left correct.

    Args:
        bench: Network and images.
        held: Images that PGD left correct, bool ``(n,)``.
        sources: Other networks by name.
        steps: Steps of PGD on a source.

    Returns:
        Name to the images that the source's examples left correct too, bool ``(n,)``.
    """
    attack = replace(bench.threat, steps=steps)
    left = {}
    for name, source in sources.items():

        def compute(
            places: np.ndarray, name: str = name, source: nn.Module = source
        ) -> dict[str, np.ndarray]:
            x, y = bench.images.rows(places)
            start = starts(attack, bench.images, places, bench.seed, "transfer", name)
            x_adv = attack(source, x, y, start=start)
            return {"left": (predict(bench.network, x_adv).argmax(dim=1) == y).cpu().numpy()}

        blank = {"left": np.zeros(len(held), bool)}
        # A name need not be a file name, nor always mean the same weights.
        known = f"{name} {weights_sha256(source)}"
        part = hashlib.sha256(known.encode()).hexdigest()[:8]
        left[name] = bench.fill("transfer", held.nonzero()[0], compute, blank, part=part)["left"]
    return left
