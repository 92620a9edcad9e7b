"""The strong evaluation: what is left of a robust accuracy when an attacker is serious about it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.autoattack import STANDARD, Ensemble, autoattack
from lrm_lightning.checks import check_integer, check_number
from lrm_lightning.evaluation import gradients, masking
from lrm_lightning.evaluation.bench import Bench, Outcome, predict
from lrm_lightning.evaluation.gradient_free import square_after_pgd, transfer_after_pgd
from lrm_lightning.evaluation.searches import search, targeted_search

# Fields of the suite that are not settings but the networks that examples are transferred from.
SOURCES = "sources"
TRANSFER_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class StrongSuite:
    """PGD with restarts and both losses, targeted PGD, AutoAttack, and a verdict on masking.

    All accuracies are worst cases: an image counts as correct only if it is without an attack and
    after every iterate that the attack tried, so an image that is broken already is not attacked
    again within a metric. Every PGD attack begins with the images that are correct
    without an attack. AutoAttack's metrics are its own: each attack sees what the former left, so
    ``square`` equals ``autoattack``. ``pgd_square`` and ``transfer_<network>`` are what Square, or
    another network's examples, leave of what PGD on both losses left, for the verdict.

    Attributes:
        pgd_steps: Steps of a search; the first is what the sign "steps" looks at.
        pgd_restarts: Searches from different random starts, for each of both losses.
        targets: Wrong classes that targeted PGD tries, the most likely first.
        targeted_steps: Steps towards each, on cross-entropy.
        large_eps: Radius at which everything must break: in L-inf 0.5, from where any image can be
            made uniformly grey; in L2 it is multiplied by the square root of the number of values.
        large_eps_steps: Steps there, of 2.5 eps / steps.
        nearness: How far, as a share of eps, the second point lies at which gradients are compared.
        autoattack_iterations: ``None`` is the standard's 100; a number is for quick checks only.
        square_queries: ``None`` is the standard's 5000; a number is for quick checks only.
        sources: Networks by name, whose PGD-10 examples are tried too.

    Raises:
        ValueError: If a setting is out of range.

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
    sources: Mapping[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("pgd_steps", "pgd_restarts", "targets", "targeted_steps", "large_eps_steps"):
            check_integer(name, getattr(self, name), low=1)
        check_number("large_eps", self.large_eps, above=0)
        check_number("nearness", self.nearness, above=0, high=1)
        for name in ("autoattack_iterations", "square_queries"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=1)

    def as_dict(self) -> dict[str, Any]:
        """All settings, as JSON; of sources their names."""
        settings = {key: value for key, value in vars(self).items() if key != SOURCES}
        return settings | {SOURCES: sorted(self.sources)}

    def describe(self, threat: PGDAttack) -> dict[str, Any]:
        """The threat model, as JSON; each attack's own settings are in the details."""
        return {key: getattr(threat, key) for key in ("norm", "eps", "step_size", "random_start")}

    @property
    def passes(self) -> dict[str, float]:
        """Forward passes an image takes in each stage; one with a backward pass counts three."""
        iterations = self.autoattack_iterations or 100
        pgd = 3.0 * self.pgd_steps * self.pgd_restarts
        queries = self.square_queries or 5000
        return {
            "clean": 1,
            "gradient": 6,
            "large_eps": 3 * self.large_eps_steps,
            "pgd_ce": pgd,
            "pgd_margin": pgd,
            "pgd_targeted": 3 * self.targeted_steps * self.targets,
            "apgd-ce": 3 * iterations,
            "apgd-t": 27 * iterations,
            "fab-t": 36 * iterations,
            "square": queries,
            "pgd_square": 0.2 * queries,  # most that PGD left went through Square already
            "transfer": 1 + 3 * TRANSFER_STEPS * len(self.sources),
        }

    def run(self, bench: Bench) -> Outcome:
        """Evaluate the network on ``bench``.

        Raises:
            ValueError: If the network returns something else than finite logits, or no gradient.
        """
        logits = _clean_logits(bench)
        clean = logits.argmax(axis=1) == bench.images.y.cpu().numpy()
        vanished, cosine = gradients.gradient_health(bench, clean, nearness=self.nearness)
        attacks = self._attacks(bench)
        far = search(bench, "large_eps", attacks["large_eps"], clean).held[-1]
        pgd_ce = search(bench, "pgd_ce", attacks["pgd_ce"], clean)
        pgd_margin = search(bench, "pgd_margin", attacks["pgd_margin"], clean)
        aimed = targeted_search(
            bench, "pgd_targeted", attacks["pgd_targeted"], logits, clean, self.targets
        )
        ensemble = self._autoattack(bench)
        held = pgd_ce.held[-1] & pgd_margin.held[-1]
        square = square_after_pgd(
            bench, held, ensemble, classes=logits.shape[1], queries=self.square_queries
        )
        transferred = transfer_after_pgd(bench, held, self.sources, steps=TRANSFER_STEPS)
        correct = {
            "clean": clean,
            "pgd_ce": pgd_ce.held[-1],
            "pgd_margin": pgd_margin.held[-1],
            "pgd_targeted": aimed,
            **{name.replace("-", "_"): ensemble.correct[name] for name in STANDARD},
            "autoattack": ensemble.correct[STANDARD[-1]],
            "pgd_square": square,
            **{f"transfer_{name}": left for name, left in transferred.items()},
        }
        correct["worst"] = np.logical_and.reduce(list(correct.values()))
        signs = [
            masking.black_box(held, square),
            masking.transfer(held, transferred),
            masking.steps(pgd_ce, most=self.pgd_steps),
            masking.restarts(pgd_ce),
            masking.large_eps(far, clean, eps=attacks["large_eps"].eps),
            masking.gradient(vanished, cosine),
        ]
        mistaken = masking.mistaken_loss(pgd_ce.held[-1], pgd_margin.held[-1])
        details = {
            "settings": self._settings(attacks, ensemble),
            "autoattack": {
                "flags": ensemble.flags,
                "x_adv_sha256": hashlib.sha256(_bytes(ensemble.x_adv)).hexdigest(),
            },
            "masking": masking.verdict(signs) | {"loss": mistaken},
        }
        arrays = {
            "autoattack_y_adv": ensemble.y_adv,
            "pgd_ce_steps": pgd_ce.needed,
            "pgd_margin_steps": pgd_margin.needed,
        }
        return Outcome(correct, details, arrays)

    def _attacks(self, bench: Bench) -> dict[str, PGDAttack]:
        threat = bench.threat
        far = self.large_eps
        if threat.norm == "l2":
            far *= bench.images.x[0].numel() ** 0.5
        pgd = replace(threat, steps=self.pgd_steps, restarts=self.pgd_restarts)
        return {
            "pgd_ce": pgd,
            "pgd_margin": replace(pgd, loss="margin"),
            "pgd_targeted": replace(threat, steps=self.targeted_steps, targeted=True),
            "large_eps": replace(
                threat,
                eps=far,
                step_size=2.5 * far / self.large_eps_steps,
                steps=self.large_eps_steps,
            ),
        }

    def _settings(self, attacks: dict[str, PGDAttack], ensemble: Ensemble) -> dict[str, Any]:
        official = self.autoattack_iterations is None and self.square_queries is None
        return {
            **{name: attack.as_dict() | {"keep": "any"} for name, attack in attacks.items()},
            "autoattack": {
                "version": "standard" if official else "reduced",
                "attacks": list(STANDARD),
                "iterations": self.autoattack_iterations or 100,
                "queries": self.square_queries or 5000,
            },
            "gradient": {"nearness": self.nearness},
            "targets": self.targets,
            "transfer": {"sources": sorted(self.sources), "steps": TRANSFER_STEPS},
        }

    def _autoattack(self, bench: Bench) -> Ensemble:
        def done(attack: str, images: int, of: int) -> None:
            bench.done(images) if images else bench.begin(attack, of)

        return autoattack(
            bench.network,
            bench.images.x,
            bench.images.y,
            eps=bench.threat.eps,
            norm=bench.threat.norm,
            seed=bench.seed,
            batch_size=bench.batch_size,
            iterations=self.autoattack_iterations,
            queries=self.square_queries,
            once=bench.journal.once,
            done=done,
        )


def _clean_logits(bench: Bench) -> np.ndarray:
    images = bench.images
    classes = predict(bench.network, images.x[: bench.batch_size]).shape[1]

    def compute(places: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": predict(bench.network, images.rows(places)[0]).cpu().numpy()}

    blank = {"logits": np.zeros((len(images.y), classes), np.float32)}
    return bench.fill("clean", np.arange(len(images.y)), compute, blank)["logits"]


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().to(torch.float32).contiguous().numpy().tobytes()
