"""The strong evaluation: what is left of a robust accuracy when an attacker is serious about it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.autoattack import STANDARD, autoattack
from lrm_lightning.attacks.forward import predict
from lrm_lightning.attacks.wrappers import StraightThrough
from lrm_lightning.checks import check_integer, check_number
from lrm_lightning.evaluation import masking, randomised, searches
from lrm_lightning.evaluation.bench import Bench, Outcome, Worst
from lrm_lightning.evaluation.metrics import ADAPTIVE, STANDARD_BUDGET
from lrm_lightning.evaluation.randomised import RandomNetwork
from lrm_lightning.evaluation.searches import BY_LOSS, TRANSFER_STEPS
from lrm_lightning.models.view import attack_view
from lrm_lightning.runs.records import LossNote, Masking


@dataclass(frozen=True, kw_only=True)
class StrongSuite:
    """PGD with restarts and three losses, targeted PGD, AutoAttack, and a verdict on masking.

    All accuracies are worst cases: an image counts as correct only if it is without an attack and
    after every iterate that the attack tried, so an image that is broken already is not attacked
    again within a metric. AutoAttack's metrics are its own: each attack sees what the former left,
    so ``square`` equals ``autoattack``. ``pgd_adaptive`` is PGD on :attr:`Bench.adaptive`.
    ``pgd_best`` is what PGD on all losses left. ``transfer_<network>`` is, for the verdict, what is
    left after all gradient attacks and then another network's examples. ``bpda`` is PGD on all
    losses with the gradient of :attr:`Bench.surrogate`.

    On a network from whose logits no gradient flows to the pixels, only Square, transfer, ``bpda``
    and the user's attacks are run. A network whose output is random is attacked as
    :class:`~lrm_lightning.evaluation.randomised.RandomNetwork`.

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
    eot: int = 20
    passes: int = 20
    autoattack_iterations: int | None = None
    square_queries: int | None = None

    def __post_init__(self) -> None:
        counts = (
            "pgd_steps",
            "pgd_restarts",
            "targets",
            "targeted_steps",
            "large_eps_steps",
            "eot",
        )
        for name in counts:
            check_integer(name, getattr(self, name), low=1)
        # With fewer passes even an image that none of them gets wrong could be a chance.
        check_integer("passes", self.passes, low=5)
        check_number("large_eps", self.large_eps, above=0)
        check_number("nearness", self.nearness, above=0, high=1)
        for name in ("autoattack_iterations", "square_queries"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=1)

    @property
    def step_counts(self) -> tuple[int, ...]:
        """Of its searches within the threat model."""
        return self.pgd_steps, self.targeted_steps, TRANSFER_STEPS

    @property
    def budget(self) -> dict[str, int]:
        """AutoAttack's iterations and queries."""
        given = {"iterations": self.autoattack_iterations, "queries": self.square_queries}
        return {key: given[key] or most for key, most in STANDARD_BUDGET.items()}

    def cost(self, classes: int, *, flows: bool, losses: int = 3) -> tuple[int, int]:
        """Passes that an image which nothing breaks takes: forward and backward, and forward alone.

        Without those of ``sources``, ``surrogate`` and ``extra_attacks``.
        """
        iterations, queries = self.budget.values()
        if not flows:
            return 0, queries
        wrong = classes - 1
        searches = losses * self.pgd_restarts * self.pgd_steps + self.large_eps_steps
        searches += min(self.targets, wrong) * self.targeted_steps
        # The path, the unit test; APGD-CE, and APGD-T and FAB-T towards each of nine classes.
        both = searches + 2 * self.pgd_steps + iterations * (1 + 2 * min(9, wrong))
        # FAB looks at each of its points once more.
        return both, queries + iterations * min(9, wrong)

    def _say_cost(
        self, network: nn.Module, bench: Bench, losses: int, *, flows: bool, times: int
    ) -> None:
        classes = predict(network, bench.images.x[:1]).shape[1]
        both, forward = self.cost(classes, flows=flows, losses=losses)
        view = attack_view(network, bench.threat.engine)
        passes: dict[str, tuple[int, nn.Module, bool]] = {
            "passes forward and backward": (times * both, view, True),
            "passes forward alone": (times * forward, network, False),
        }
        if bench.surrogate is not None:
            through = StraightThrough(network, bench.surrogate)
            count = times * losses * self.pgd_restarts * self.pgd_steps
            passes["through the stand-in"] = (count, through, True)
        bench.say_cost(passes)

    def run(self, network: nn.Module, bench: Bench) -> Outcome:
        apart = bench.compute(
            "randomness",
            np.arange(min(len(bench.images.y), bench.batch_size)),
            lambda places, x, y: {"difference": np.array([randomised.difference(network, x)])},
        )["difference"]
        attacks, flows = self._attacks(bench), searches.has_gradient(network, bench.images.x[:1])
        by_loss = [name for name in BY_LOSS if name in attacks]
        random = apart[0] > randomised.DIFFERENCE
        times = self.eot if random else 1
        self._say_cost(network, bench, len(by_loss), flows=flows, times=times)
        official = {key: getattr(bench.threat, key) for key in ("eps", "norm")}
        official |= {"seed": bench.seed, **self.budget}
        if random:
            if bench.keep_images:
                raise ValueError("keep_images=true: the output is random, no image is the worst")
            victim = RandomNetwork(network, bench, flows, self.eot, self.passes)
            correct, signs, loss = victim.attacked(
                attacks, official, float(apart[0]), nearness=self.nearness
            )
            names = randomised.RAND if flows else ()
            made = {name: each.as_dict() for name, each in attacks.items() if not each.targeted}
            details = self._details(bench, made, names, flows, masking.verdict(signs, loss))
            return Outcome(correct, details, {})
        labels = bench.images.y.cpu().numpy()
        logits = bench.compute(
            "clean",
            np.arange(len(labels)),
            lambda places, x, y: {"logits": predict(network, x).cpu().numpy()},
        )["logits"]
        clean = logits.argmax(axis=1) == labels
        if bench.keep_images:
            bench = replace(bench, worst=Worst(bench.images, ~clean))
        aims, found = searches.likely_targets(logits, labels, self.targets), {}
        for stage, attack in attacks.items() if flows else ():
            targets = aims if attack.targeted else None
            # What is broken at the large radius only is outside of the threat model.
            here = replace(bench, worst=None) if stage == "large_eps" else bench
            found[stage] = searches.search(network, here, stage, attack, clean, targets)
        searched = {name: each.held[-1] for name, each in found.items() if name != "large_eps"}
        held = np.logical_and.reduce([clean, *(searched[name] for name in by_loss if flows)])
        names = STANDARD if flows else STANDARD[-1:]
        ensemble = autoattack(
            network,
            bench.images.x,
            bench.images.y,
            **official,
            batch_size=bench.batch_size,
            attacks=names,
            each=bench.cache.each,
            done=bench.progress,
        )
        broken = ~ensemble.correct["square"]
        bench.keep(broken.nonzero()[0], bench.pixels(ensemble.x_adv[broken]), broken[broken])
        before_square, square = list(ensemble.correct.values())[-2:]
        by_gradient = np.logical_and.reduce([clean, before_square, *searched.values()])
        transferred = searches.transfer_after(network, bench, by_gradient)
        correct = {"clean": clean, **searched}
        correct |= {name.replace("-", "_"): left for name, left in ensemble.correct.items()}
        if flows:
            correct |= {"pgd_best": held, "autoattack": square}
        correct |= {f"transfer_{name}": left for name, left in transferred.items()}
        correct |= bench.left_by_extras(network, clean)
        signs = [masking.black_box(by_gradient, square)]
        signs.append(masking.transfer(by_gradient, transferred))
        if bench.surrogate is not None:
            through, left = StraightThrough(network, bench.surrogate), clean
            for name in by_loss:  # the second loss attacks what the first one left
                search = searches.search(through, bench, f"bpda {name}", attacks[name], left)
                left = search.held[-1]
            correct["bpda"] = left
            signs.append(masking.straight_through(by_gradient, left))
        correct["worst"] = np.logical_and.reduce(list(correct.values()))
        loss = LossNote()
        if flows:
            first, far = found["pgd_ce"], found["large_eps"].held[-1]
            path = searches.follow(network, bench, attacks["pgd_ce"], clean)
            health = searches.gradient_health(network, bench, clean, nearness=self.nearness)
            signs += [
                masking.steps(first, most=self.pgd_steps),
                masking.restarts(first),
                masking.large_eps(far, clean, eps=attacks["large_eps"].eps),
                masking.gradient(*health),
                masking.zero_gradient(searches.zero_gradient(network, bench, clean)),
                masking.silent_success(path),
                masking.unfinished(path),
                masking.unit_test(searches.unit_test(network, bench, attacks["pgd_ce"], clean)),
            ]
            loss = masking.mistaken_loss(searched["pgd_ce"], searched["pgd_margin"])
        else:
            signs += [masking.untried(name, "no gradient") for name in masking.OF_PGD]
            signs.append(masking.no_gradient(int(clean.sum())))
        sha256 = hashlib.sha256(ensemble.x_adv.cpu().contiguous().numpy().tobytes())
        made = {name: each.as_dict() | {"keep": "any"} for name, each in attacks.items()}
        details = self._details(bench, made, names, flows, masking.verdict(signs, loss))
        details["autoattack"] = {"flags": ensemble.flags, "x_adv_sha256": sha256.hexdigest()}
        arrays = {f"{name}_steps": found[name].needed for name in by_loss if flows}
        arrays["autoattack_y_adv"] = ensemble.y_adv
        kept = None if bench.worst is None else ("worst", bench.worst.x_adv)
        return Outcome(correct, details, arrays, kept)

    def _attacks(self, bench: Bench) -> dict[str, PGDAttack]:
        threat, steps, far = bench.threat, self.large_eps_steps, bench.large(self.large_eps)
        pgd = replace(threat, steps=self.pgd_steps, restarts=self.pgd_restarts)
        adaptive = {} if bench.adaptive is None else {ADAPTIVE: replace(pgd, loss=bench.adaptive)}
        return {
            "pgd_ce": pgd,
            "pgd_margin": replace(pgd, loss="margin"),
            "pgd_dlr": replace(pgd, loss="dlr"),
            **adaptive,
            "pgd_targeted": replace(threat, steps=self.targeted_steps, targeted=True),
            "large_eps": replace(threat, eps=far, step_size=2.5 * far / steps, steps=steps),
        }

    def _details(
        self,
        bench: Bench,
        made: Mapping[str, dict[str, Any]],
        official: Sequence[str],
        flows: bool,
        told: Masking,
    ) -> dict[str, Any]:
        less = any(self.budget[key] < most for key, most in STANDARD_BUDGET.items())
        versions = {STANDARD: "standard", randomised.RAND: "rand"}
        version = "reduced" if less else versions.get(tuple(official), "reduced")
        threat = ("norm", "eps", "step_size", "random_start")
        details = {
            "attack": {key: getattr(bench.threat, key) for key in threat},
            "settings": {
                **made,
                "autoattack": {"version": version, "attacks": list(official), **self.budget},
                "gradient": {"nearness": self.nearness},
                "targets": self.targets,
                "randomised": {"eot": self.eot, "passes": self.passes},
                "transfer": {"sources": sorted(bench.sources), "steps": TRANSFER_STEPS},
            },
            "masking": told,
        }
        if not flows:
            impossible = [*(name for name in made if name != "large_eps"), *STANDARD[:-1]]
            why = "no gradient flows from the logits to the pixels"
            details["impossible"] = {name.replace("-", "_"): why for name in impossible}
        return details
