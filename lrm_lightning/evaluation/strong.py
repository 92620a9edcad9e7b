"""The strong evaluation: what is left of a robust accuracy when an attacker is serious about it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.autoattack import STANDARD, autoattack
from lrm_lightning.attacks.context import predict
from lrm_lightning.checks import check_integer, check_number
from lrm_lightning.evaluation import masking, searches
from lrm_lightning.evaluation.bench import Bench, Outcome
from lrm_lightning.evaluation.metrics import STANDARD_BUDGET

TRANSFER_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class StrongSuite:
    """PGD with restarts and both losses, targeted PGD, AutoAttack, and a verdict on masking.

    All accuracies are worst cases: an image counts as correct only if it is without an attack and
    after every iterate that the attack tried, so an image that is broken already is not attacked
    again within a metric. AutoAttack's metrics are its own: each attack sees what the former left,
    so ``square`` equals ``autoattack``. ``pgd_square`` and ``transfer_<network>`` are what Square,
    or another network's examples, leave of what PGD on both losses left, for the verdict.

    The settings are explained in ``conf/suite/strong.yaml``.

    References:
        Croce & Hein 2020, arXiv:2003.01690; those of :mod:`~lrm_lightning.evaluation.masking`.
    """

    name: ClassVar[str] = "strong"
    pgd_steps: int = 200
    pgd_restarts: int = 5
    targets: int = 9
    targeted_steps: int = 50
    large_eps: float = 0.5
    large_eps_steps: int = 50
    nearness: float = 0.01
    autoattack_iterations: int | None = None
    square_queries: int | None = None

    def __post_init__(self) -> None:
        for name in ("pgd_steps", "pgd_restarts", "targets", "targeted_steps", "large_eps_steps"):
            check_integer(name, getattr(self, name), low=1)
        check_number("large_eps", self.large_eps, above=0)
        check_number("nearness", self.nearness, above=0, high=1)
        for name in ("autoattack_iterations", "square_queries"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=1)

    @property
    def step_counts(self) -> tuple[int, ...]:
        """Of its searches within the threat model."""
        return self.pgd_steps, self.targeted_steps, TRANSFER_STEPS

    def run(self, network: nn.Module, bench: Bench) -> Outcome:
        labels = bench.images.y.cpu().numpy()
        logits = bench.compute(
            "clean",
            np.arange(len(labels)),
            lambda places, x, y: {"logits": predict(network, x).cpu().numpy()},
        )["logits"]
        clean = logits.argmax(axis=1) == labels
        vanished, cosine = searches.gradient_health(network, bench, clean, nearness=self.nearness)
        attacks = self._attacks(bench)
        far, pgd_ce, pgd_margin = (
            searches.search(network, bench, stage, attacks[stage], clean)
            for stage in ("large_eps", "pgd_ce", "pgd_margin")
        )
        aims, stage = searches.likely_targets(logits, labels, self.targets), "pgd_targeted"
        targeted = searches.search(network, bench, stage, attacks[stage], clean, aims)
        official = {key: getattr(bench.threat, key) for key in ("eps", "norm")}
        official |= {"seed": bench.seed, "queries": self.square_queries}
        how: dict[str, Any] = {"batch_size": bench.batch_size, "once": bench.cache.once}
        how |= {"iterations": self.autoattack_iterations, "done": bench.progress}
        ensemble = autoattack(network, bench.images.x, bench.images.y, **official, **how)
        held = pgd_ce.held[-1] & pgd_margin.held[-1]
        official["classes"] = logits.shape[1]
        square = searches.square_after_pgd(network, bench, held, ensemble, official)
        transferred = searches.transfer_after_pgd(network, bench, held, steps=TRANSFER_STEPS)
        correct = {
            "clean": clean,
            "pgd_ce": pgd_ce.held[-1],
            "pgd_margin": pgd_margin.held[-1],
            "pgd_targeted": targeted.held[-1],
            **{name.replace("-", "_"): ensemble.correct[name] for name in STANDARD},
            "autoattack": ensemble.correct[STANDARD[-1]],
            "pgd_square": square,
            **{f"transfer_{name}": left for name, left in transferred.items()},
            **bench.left_by_extras(network, clean),
        }
        correct["worst"] = np.logical_and.reduce(list(correct.values()))
        signs = [
            masking.black_box(held, square),
            masking.transfer(held, transferred),
            masking.steps(pgd_ce, most=self.pgd_steps),
            masking.restarts(pgd_ce),
            masking.large_eps(far.held[-1], clean, eps=attacks["large_eps"].eps),
            masking.gradient(vanished, cosine),
        ]
        loss = masking.mistaken_loss(pgd_ce.held[-1], pgd_margin.held[-1])
        sha256 = hashlib.sha256(ensemble.x_adv.cpu().contiguous().numpy().tobytes())
        threat = ("norm", "eps", "step_size", "random_start")
        details = {
            "attack": {key: getattr(bench.threat, key) for key in threat},
            "settings": self._settings(bench, attacks),
            "autoattack": {"flags": ensemble.flags, "x_adv_sha256": sha256.hexdigest()},
            "masking": masking.verdict(signs, loss),
        }
        arrays = {
            "autoattack_y_adv": ensemble.y_adv,
            "pgd_ce_steps": pgd_ce.needed,
            "pgd_margin_steps": pgd_margin.needed,
        }
        return Outcome(correct, details, arrays)

    def _attacks(self, bench: Bench) -> dict[str, PGDAttack]:
        threat, steps = bench.threat, self.large_eps_steps
        far = self.large_eps
        if threat.norm == "l2":
            far *= bench.images.x[0].numel() ** 0.5
        pgd = replace(threat, steps=self.pgd_steps, restarts=self.pgd_restarts)
        return {
            "pgd_ce": pgd,
            "pgd_margin": replace(pgd, loss="margin"),
            "pgd_targeted": replace(threat, steps=self.targeted_steps, targeted=True),
            "large_eps": replace(threat, eps=far, step_size=2.5 * far / steps, steps=steps),
        }

    def _settings(self, bench: Bench, attacks: Mapping[str, PGDAttack]) -> dict[str, Any]:
        budget = {
            "iterations": self.autoattack_iterations or STANDARD_BUDGET["iterations"],
            "queries": self.square_queries or STANDARD_BUDGET["queries"],
        }
        is_less = any(budget[key] < most for key, most in STANDARD_BUDGET.items())
        return {
            **{name: attack.as_dict() | {"keep": "any"} for name, attack in attacks.items()},
            "autoattack": {
                "version": "reduced" if is_less else "standard",
                "attacks": list(STANDARD),
                **budget,
            },
            "gradient": {"nearness": self.nearness},
            "targets": self.targets,
            "transfer": {"sources": sorted(bench.sources), "steps": TRANSFER_STEPS},
        }
