"""The accuracies in records: what their attacks are called, and which attacks were weak ones."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from lrm_lightning.checks import crosses
from lrm_lightning.runs.records import EvaluationRecord, Record, printable

ATTACK_TITLES = {
    "clean": "natural",
    "fgsm": "FGSM",
    "pgd_ce": "PGD, CE",
    "pgd_margin": "PGD, margin",
    "pgd_dlr": "PGD, DLR",
    "pgd_adaptive": "PGD, adaptive",
    "pgd_best": "PGD, best loss",
    "pgd_targeted": "PGD, targeted",
    "bpda": "PGD, straight-through",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "Square",
    "autoattack": "AutoAttack",
    "worst": "all together",
    "large_eps": "PGD, large eps",
    "kept_images": "kept images",
}
# What AutoAttack's standard version does, and the accuracies that stand on it.
STANDARD_BUDGET = {"iterations": 100, "queries": 5000}
STANDARD_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
NORMS = {"linf": "L-inf", "l2": "L2"}
# Attacks on what gradient attacks left; what they found belongs to the verdict.
FOLLOWING = ("pgd_square", "transfer_")
ADAPTIVE = "pgd_adaptive"  # PGD on a loss that was given
METHOD = "method"  # the loss that a network was trained with
OF_AUTOATTACK = ("apgd_ce", "apgd_t", "fab_t", "square", "autoattack", "worst")


def pgd_steps(name: str) -> int | None:
    """The number of steps in an accuracy's name, such as ``pgd20``; ``None`` if it isn't PGD's."""
    found = re.fullmatch("pgd([1-9][0-9]{0,5})", name)
    return int(found[1]) if found else None


def attack_title(name: str) -> str:
    """An attack as the paper writes it: ``pgd20`` is PGD-20."""
    steps = pgd_steps(name)
    return f"PGD-{steps}" if steps is not None else ATTACK_TITLES.get(name, name)


def shown_eps(eps: float, norm: str) -> str:
    """A radius as the field writes it: in L-inf in 255ths, where it is some."""
    steps = 255 * eps
    whole = norm == "linf" and steps > 0.5 and abs(steps - round(steps)) < 1e-6
    return f"{round(steps)}/255" if whole else f"{eps:g}"


def raised(record: Record) -> str:
    """Which loss adaptive PGD raised, such as ``method``, that of the training; empty if none."""
    suite = record.settings if isinstance(record, EvaluationRecord) else {}
    adaptive = suite.get(ADAPTIVE)
    return printable(str(adaptive.get("loss", ""))) if isinstance(adaptive, dict) else ""


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def weakness(record: Record, name: str) -> str:
    """Why the accuracy under the attack ``name`` may be too high, in a few words; empty if not.

    A search by PGD is weak if its steps together are shorter than eps, so that it can't reach the
    edge of the threat model. AutoAttack is weak if it does less than its standard version, or than
    its version for random networks.
    """
    steps = pgd_steps(name)
    suite = record.settings if isinstance(record, EvaluationRecord) else {}
    if name in OF_AUTOATTACK:
        found = suite.get("autoattack")
        return _reduced(found) if isinstance(found, dict) else ""
    found = suite.get(name) if steps is None else {**record.attack, "steps": steps}
    return _short(found) if isinstance(found, dict) else ""


def _reduced(autoattack: Mapping[str, Any]) -> str:
    less = [
        f"{autoattack[key]:g} of {most} {key}"
        for key, most in STANDARD_BUDGET.items()
        if is_number(autoattack.get(key)) and autoattack[key] < most
    ]
    attacks = autoattack.get("attacks")
    if isinstance(attacks, list) and autoattack.get("version") != "rand":
        left_out = [each for each in STANDARD_ATTACKS if each not in attacks]
        less += [f"without {', '.join(left_out)}"] if left_out else []
    return f"reduced AutoAttack: {', '.join(less)}" if less else ""


def _short(search: Mapping[str, Any]) -> str:
    given: list[Any] = [search.get(key) for key in ("steps", "step_size", "eps")]
    if not all(map(is_number, given)):
        return ""
    steps, step_size, eps = given
    if crosses(steps, step_size, eps):
        return ""
    return f"weak search: {steps:g} steps of {step_size:g} are shorter than eps = {eps:g}"
