"""What ``python -m lrm_lightning.evaluate`` does: a suite on every network, recorded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

from lrm_lightning.attacks import Attack
from lrm_lightning.attacks.context import predict
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.bench import Bench, described
from lrm_lightning.evaluation.paper import PaperSuite
from lrm_lightning.evaluation.session import Found, Session, as_user_error, say_if_short
from lrm_lightning.evaluation.strong import StrongSuite
from lrm_lightning.runs.directory import EVALUATIONS
from lrm_lightning.runs.intervals import accuracies
from lrm_lightning.runs.networks import TrainedNetwork, imported, load_foreign, weights_sha256
from lrm_lightning.runs.records import EvaluationRecord

SUITES = {"paper": PaperSuite, "strong": StrongSuite}
# Names of what the suites leave in records and in files of verdicts.
TAKEN = re.compile(
    r"(clean|fgsm|worst|square|index)$|(pgd|apgd|fab|autoattack|bpda|transfer|gallery)_?"
)


def evaluate(given: Mapping[str, Any], overrides: Sequence[str] = ()) -> list[EvaluationRecord]:
    """Run a suite on every network and record it, as ``conf/evaluate.yaml`` says.

    The command line's ``overrides`` are kept in the records, so that they can be made again.
    After a :class:`UserError` the networks before it are recorded.
    """
    session = Session(given, overrides)
    given = session.given
    settings = dict(given["suite"])
    name = settings.pop("name", None)
    if name not in SUITES:
        raise UserError(f"suite={name} is unknown; choose one of: {', '.join(SUITES)}")
    with as_user_error("suite."):
        suite = SUITES[name](**settings)
    extra_attacks = {name: _attack(name, node) for name, node in given["extra_attacks"].items()}
    networks = session.networks("runs", given["checkpoint"])
    if given["network"] is not None:
        outside = {key: given[key] for key in ("weights", "name", "out")}
        networks.append(load_foreign(given["network"], **outside))
    if not networks:
        raise UserError("nothing to evaluate: give runs=[...], or network=package.module:function")
    sources = session.networks("sources") if name == "strong" else []
    return [
        _evaluate(session, suite, extra_attacks, network, sources, f"{number}/{len(networks)}")
        for number, network in enumerate(networks, start=1)
    ]


def _evaluate(
    session: Session,
    suite: PaperSuite | StrongSuite,
    extra_attacks: Mapping[str, Attack],
    network: TrainedNetwork,
    sources: Sequence[TrainedNetwork],
    number: str,
) -> EvaluationRecord:
    about, threat = network.about, session.threat([network])
    for name, attack in extra_attacks.items():
        if attack.threat != threat.threat:
            raise UserError(
                f"extra_attacks.{name} is of {attack.threat}, and {about.label} is evaluated under"
                f" {threat.threat}; give extra_attacks.{name}.eps=... or attack.eps=..."
            )
    pieces = {"suite": suite.name, "settings": asdict(suite)}
    pieces |= {"weights": about.weights_sha256, "threat": threat.as_dict()}
    surrogate, target = None, session.given["surrogate"]
    if target is not None and suite.name == "strong":
        surrogate = imported("surrogate", target, network.module).eval()
        pieces["surrogate"] = [target, weights_sha256(surrogate)]
    # A source or an attack more or less leaves the pieces of the other attacks as they are.
    others = _others(sources, network)
    extra = {name: described(attack) for name, attack in extra_attacks.items()}
    more = {"sources": {name: each.about.weights_sha256 for name, each in others.items()}}
    more |= {"extra_attacks": extra} if extra else {}

    def make(bench: Bench) -> Found:
        say_if_short(threat, suite.step_counts)
        modules = {name: each.module.to(session.device) for name, each in others.items()}
        given = {"sources": modules, "extra_attacks": extra_attacks}
        if surrogate is not None:
            given["surrogate"] = surrogate.to(session.device)
            two = bench.images.x[:2]
            with as_user_error(f"surrogate={target}: ", (Exception,)):  # it is anybody's code
                predict(surrogate, two, classes=predict(network.module, two).shape[1])
        bench = replace(bench, **given)
        with as_user_error(f"{about.label}: ", (ValueError,)):
            correct, details, arrays = suite.run(network.module, bench)
        if surrogate is not None:
            details["settings"]["bpda"] = {"surrogate": target}
        if extra:
            details["settings"] = details.get("settings", {}) | extra
        kind = {"kind": "whitebox", "suite": suite.name, "batch_size": bench.batch_size}
        own = {"runs": [network], "network": []} if about.run_dir else {"runs": []}
        kind |= {"overrides": session.overrides(**own, sources=list(others.values()))}
        return kind | {"network": about} | details | accuracies(correct), correct | arrays

    path = network.folder / EVALUATIONS / f"{suite.name}.json"
    title = f"{suite.name} {about.label} ({number})"
    return session.record(path, EvaluationRecord, [network], threat, title, pieces, more, make)


def _attack(name: str, node: object) -> Attack:
    """An attack that the command line names; importing it runs its module."""
    key = f"extra_attacks.{name}"
    if TAKEN.match(name):
        raise UserError(f"{key}: the suites use this name themselves; choose another")
    settings = dict(node) if isinstance(node, Mapping) else {}
    module, _, kind = str(settings.pop("_target_", "")).rpartition(".")
    with as_user_error(f"{key}: ", (ImportError, AttributeError, TypeError, ValueError)):
        attack = getattr(import_module(module), kind)(**settings)
    if not isinstance(attack, Attack):
        raise UserError(f"{key} is a {type(attack).__name__}, not a lrm_lightning.attacks.Attack")
    return attack


def _others(
    sources: Sequence[TrainedNetwork], network: TrainedNetwork
) -> dict[str, TrainedNetwork]:
    """By label, the sources that are not the network itself, each once."""
    found: dict[str, TrainedNetwork] = {}
    seen = {network.about.weights_sha256}
    for source in sources:
        label, sha256 = source.about.label, source.about.weights_sha256
        if sha256 not in seen:
            seen.add(sha256)
            found[label if label not in found else f"{label}-{sha256[:8]}"] = source
    return found
