"""Accuracy by eps: at which radius PGD first breaks each image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from lrm_lightning.attacks import ThreatModel
from lrm_lightning.checks import check_choice, check_integer, check_number
from lrm_lightning.evaluation import masking
from lrm_lightning.evaluation.bench import Bench, Outcome, correct_on
from lrm_lightning.evaluation.searches import search
from lrm_lightning.losses import OBJECTIVES
from lrm_lightning.runs.intervals import wilson_interval

POINTS = 16  # of the default range, besides eps = 0
# The length of all steps of a search together, as a multiple of eps; 2 eps cross the ball.
REACH = 2.5


@dataclass(frozen=True, kw_only=True)
class EpsCurveSuite:
    """The smallest of some radii at which PGD breaks an image, and so the accuracy by eps.

    The radii are tried in rising order. An image that is broken at one counts as broken at every
    larger one, whose ball holds its adversarial example too: it is not attacked again, and the
    accuracy never rises. The steps of a search are 2.5 eps / steps long, and any misclassified
    iterate counts. At a last, large radius every image must break: if not, the gradient is hidden,
    and the whole curve is too high.

    The settings are explained in ``conf/suite/eps_curve.yaml``.

    References:
        Carlini et al. 2019, arXiv:1902.06705, sections 4.6 and 5.2 (accuracy by budget, unbounded
        attacks).
    """

    name: ClassVar[str] = "eps_curve"
    step_counts: ClassVar[tuple[int, ...]] = ()  # every search reaches across its ball
    eps: Sequence[float] | None = None
    steps: int = 50
    restarts: int = 1
    losses: Sequence[str] = ("cross_entropy", "margin")
    large_eps: float = 0.5

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, low=1)
        check_integer("restarts", self.restarts, low=1)
        check_number("large_eps", self.large_eps, above=0)
        for name, given in (("eps", self.eps), ("losses", self.losses)):
            if given is not None and (not isinstance(given, Sequence) or isinstance(given, str)):
                raise ValueError(f"{name}={given!r} must be a list")
        for loss in self.losses:
            check_choice("losses", loss, OBJECTIVES)
        if not self.losses:
            raise ValueError("losses=[] leaves PGD nothing to raise")
        below = 0.0
        for eps in self.eps or ():
            check_number("eps", eps, above=below, why="they must rise from above 0")
            below = eps

    def radii(self, threat: ThreatModel) -> list[float]:
        """The radii: in L-inf by default 1/255 to 16/255, in L2 an eighth of eps to twice eps."""
        unit = 1 / 255 if threat.norm == "linf" else threat.eps / 8
        return list(self.eps or (unit * k for k in range(1, POINTS + 1)))

    def run(self, network: nn.Module, bench: Bench) -> Outcome:
        n, radii = len(bench.images.y), self.radii(bench.threat.threat)
        if radii[-1] >= (far := bench.large(self.large_eps)):
            raise ValueError(f"suite.eps={radii[-1]:g} must be below suite.large_eps={far:g}")
        # Each once: a search is cached, and its starts are drawn, under its loss's name.
        losses = dict.fromkeys(filter(None, [*self.losses, bench.adaptive]))
        clean = bench.compute(
            "clean", np.arange(n), lambda places, x, y: {"correct": correct_on(network, x, y)}
        )["correct"]
        smallest = np.where(clean, np.inf, 0.0)
        for eps in (*radii, far):
            step_size = REACH * eps / self.steps
            for loss in losses:
                attack = replace(
                    bench.threat, eps=eps, step_size=step_size, steps=self.steps,
                    restarts=self.restarts, loss=loss,
                )  # fmt: skip
                stage, left = f"eps {eps:.6g} {loss}", np.isinf(smallest)
                held = search(network, bench, stage, attack, left).held[-1]
                smallest[left & ~held] = eps
        held = np.isinf(smallest)
        curve = [0.0, *radii]
        counts = [int((smallest > eps).sum()) for eps in curve]
        details: dict[str, Any] = {
            "attack": {key: getattr(bench.threat, key) for key in ("norm", "eps", "random_start")},
            "eps_curve": {
                "eps": curve,
                "accuracy": [count / n for count in counts],
                "intervals": [wilson_interval(count, n) for count in counts],
                "large_eps": masking.large_eps(held, clean, eps=far),
            },
            "settings": {
                "eps_curve": {
                    "eps": radii, "large_eps": far,
                    "steps": self.steps, "step_size": f"{REACH:g} eps / steps",
                    "restarts": self.restarts, "losses": list(map(str, losses)),
                }
            },
        }  # fmt: skip
        return Outcome({"clean": clean, "large_eps": held}, details, {"min_eps": smallest})
