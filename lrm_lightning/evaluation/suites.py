"""What ``python -m lrm_lightning.evaluate`` does: a suite on every network, recorded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

from lrm_lightning.attacks import Attack
from lrm_lightning.attacks.forward import predict
from lrm_lightning.checks import check_flag
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation import foreign
from lrm_lightning.evaluation.adaptive import Loss, given_loss, loss_of
from lrm_lightning.evaluation.bench import Bench, described
from lrm_lightning.evaluation.eps_curve import EpsCurveSuite
from lrm_lightning.evaluation.images import X_ADV, KeptImagesSuite, kept
from lrm_lightning.evaluation.paper import PaperSuite
from lrm_lightning.evaluation.session import Found, Session, as_user_error, say_if_short
from lrm_lightning.evaluation.strong import StrongSuite
from lrm_lightning.runs.directory import EVALUATIONS
from lrm_lightning.runs.networks import TrainedNetwork, imported, weights_sha256
from lrm_lightning.runs.records import EvaluationRecord, accuracies

Suite = PaperSuite | StrongSuite | EpsCurveSuite | KeptImagesSuite
SUITES: dict[str, type[Suite]] = {
    kind.name: kind for kind in (PaperSuite, StrongSuite, EpsCurveSuite, KeptImagesSuite)
}
# Settings that are of some suites alone.
ONLY_OF = {
    "attack_loss": ("paper", "strong", "eps_curve"),
    "extra_attacks": ("paper", "strong"),
    "images": ("kept_images",),
    "keep_images": ("paper", "strong"),
    "sources": ("strong",),
    "surrogate": ("strong",),
}
# Names of what the suites leave in records and in files of verdicts.
TAKEN = re.compile(
    r"clean|fgsm|worst|square|index|x_adv|targets|gradient|randomised|large_eps|kept_images"
    r"|(pgd|apgd|fab|autoattack|bpda|transfer|gallery)(\d+|_.*)?"
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
    if not isinstance(name, str) or name not in SUITES:
        raise UserError(f"suite={name} is unknown; choose one of: {', '.join(SUITES)}")
    for key, suites in ONLY_OF.items():
        if given[key] and name not in suites:
            raise UserError(f"{key} is of suite={' and suite='.join(suites)}, not of suite={name}")
    if name == KeptImagesSuite.name:
        if given["images"] is None:
            raise UserError("suite=kept_images needs images=PATH, a file of attacked images")
        settings["images"] = given["images"]
    with as_user_error("suite."):
        check_flag("keep_images", given["keep_images"])
        suite = SUITES[name](**settings)
    if isinstance(suite, KeptImagesSuite):
        _, session.index = suite.kept
    extra_attacks = {name: _attack(name, node) for name, node in given["extra_attacks"].items()}
    loss = given["attack_loss"] and given_loss(given["attack_loss"], given["trust"])
    networks = session.networks("runs", given["checkpoint"])
    networks += session.foreign()
    if not networks:
        raise UserError("nothing to evaluate: give runs=[...], or network=package.module:function")
    sources = session.networks("sources")
    return [
        _evaluate(
            session, suite, extra_attacks, loss, network, sources, f"{number}/{len(networks)}"
        )
        for number, network in enumerate(networks, start=1)
    ]


def _evaluate(
    session: Session,
    suite: Suite,
    extra_attacks: Mapping[str, Attack],
    loss: Loss | None,
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
    surrogate, target = None, session.given["surrogate"]
    if target is not None:
        surrogate = imported("surrogate", target, network.module).eval()
    pieces = {"suite": suite.name, "settings": asdict(suite)}
    pieces |= {"weights": about.weights_sha256, "threat": threat.as_dict()}
    pieces |= {
        key: value
        for key, value in {
            "surrogate": surrogate is not None and [target, weights_sha256(surrogate)],
            "attack_loss": loss and str(loss),
            "keep_images": session.given["keep_images"],
            "images": isinstance(suite, KeptImagesSuite) and suite.sha256,
        }.items()
        if value
    }
    # A source or an attack more or less leaves the pieces of the other attacks as they are.
    others = _others(sources, network)
    extra = {name: described(attack) for name, attack in extra_attacks.items()}
    more = {"sources": {name: each.about.weights_sha256 for name, each in others.items()}}
    more |= {"extra_attacks": extra} if extra else {}

    def make(bench: Bench) -> Found:
        say_if_short(threat, suite.step_counts)
        bench = replace(
            bench,
            sources={name: each.module.to(session.device) for name, each in others.items()},
            extra_attacks=extra_attacks,
            keep_images=session.given["keep_images"],
        )
        if surrogate is not None:
            bench = replace(bench, surrogate=surrogate.to(session.device))
            two = bench.images.x[:2]
            with as_user_error(f"surrogate={target}: ", (Exception,)):  # it is anybody's code
                predict(surrogate, two, classes=predict(network.module, two).shape[1])
        if loss is not None:
            adaptive = loss_of(loss, network, bench.images.x[:2], session.given["trust"])
            bench = replace(bench, adaptive=adaptive)
        with as_user_error(f"{about.label}: ", (ValueError,)):
            correct, details, arrays, images = suite.run(network.module, bench)
        if images is not None:
            details["kept"] = kept(network.module, bench, *images)
            arrays = arrays | {X_ADV: images[1]}
        if surrogate is not None:
            details["settings"]["bpda"] = {"surrogate": target}
        if extra:
            details["settings"] = details.get("settings", {}) | extra
        kind = {"kind": "whitebox", "suite": suite.name, "batch_size": bench.batch_size}
        runs = {"runs": [network]} | dict.fromkeys(("network", *foreign.SETTINGS), ())
        own = runs if about.run_dir else {"runs": ()}
        kind |= {"overrides": session.overrides(**own, sources=list(others.values()))}
        return kind | {"network": about} | details | accuracies(correct), correct | arrays

    path = network.folder / EVALUATIONS / f"{suite.name}.json"
    title = f"{suite.name} {about.label} ({number})"
    return session.record(path, EvaluationRecord, [network], threat, title, pieces, more, make)


def _attack(name: str, node: object) -> Attack:
    """An attack that the command line names; importing it runs its module."""
    key = f"extra_attacks.{name}"
    if TAKEN.fullmatch(name):
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
