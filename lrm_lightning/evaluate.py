"""Attack trained networks and record what is left of their accuracy.

python -m lrm_lightning.evaluate runs=[runs/cifar10/alp-dde014db] suite=paper
python -m lrm_lightning.evaluate 'runs=[runs/cifar10/*]' suite=strong n_images=1000
python -m lrm_lightning.evaluate network=my_package.models:my_network weights=my.pt name=mine
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.attacks.context import exact_arithmetic
from lrm_lightning.checks import check_flag, check_integer
from lrm_lightning.data import ImageDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.bench import Bench, predict
from lrm_lightning.evaluation.images import pick
from lrm_lightning.evaluation.journal import Journal
from lrm_lightning.evaluation.progress import Progress
from lrm_lightning.evaluation.settings import (
    checked,
    choose_device,
    data_settings,
    load_data,
    threat_model,
)
from lrm_lightning.evaluation.strong import StrongSuite
from lrm_lightning.evaluation.subjects import Subject, find_runs, from_outside, from_run
from lrm_lightning.evaluation.suite_table import print_evaluations
from lrm_lightning.evaluation.whitebox import PaperSuite
from lrm_lightning.runs import identity, suite_record
from lrm_lightning.runs.intervals import accuracies

SUITES = {"paper": PaperSuite, "strong": StrongSuite}

Suite = PaperSuite | StrongSuite


def evaluate(cfg: DictConfig) -> list[dict[str, Any]]:
    """Run a suite on every network and record it; go on if it was interrupted.

    Args:
        cfg: The composed configuration, ``conf/evaluate.yaml``.

    Returns:
        The records, one a network.

    Raises:
        UserError: For whatever the user can mend; networks before it are recorded.
    """
    given = identity.plain(cfg)
    device = choose_device(given["device"])
    suite = _suite(given["suite"])
    checked("", lambda: check_flag("rerun", given["rerun"]))
    for key in ("seed", "batch_size"):
        low = 0 if key == "seed" else 1
        checked("", lambda key=key, low=low: check_integer(key, given[key], low=low))
    subjects = _subjects(given)
    sources = [from_run(path) for path in find_runs(given["sources"], key="sources")]
    loaded: dict[str, ImageDataModule] = {}
    records = []
    for number, subject in enumerate(subjects, start=1):
        title = f"{suite.name} {subject.label} ({number}/{len(subjects)})"
        settings = data_settings(subject.trained, given["data"])
        if str(settings) not in loaded:
            loaded[str(settings)] = load_data(settings)
        records.append(
            _evaluate(subject, suite, sources, loaded[str(settings)], given, device, title)
        )
    print_evaluations(records)
    return records


def _suite(given: Mapping[str, Any]) -> Suite:
    settings = dict(given)
    name = settings.pop("name", None)
    if name not in SUITES:
        raise UserError(f"suite={name} is unknown; choose one of: {', '.join(SUITES)}")
    return checked("suite.", lambda: SUITES[name](**settings))


def _subjects(given: Mapping[str, Any]) -> list[Subject]:
    subjects = [from_run(path, given["checkpoint"]) for path in find_runs(given["runs"])]
    if given["network"] is not None:
        outside = {key: given[key] for key in ("weights", "name", "out")}
        subjects.append(from_outside(given["network"], **outside))
    if not subjects:
        raise UserError("nothing to evaluate: give runs=[...], or network=package.module:function")
    return subjects


def _evaluate(
    subject: Subject,
    suite: Suite,
    sources: Sequence[Subject],
    datamodule: ImageDataModule,
    given: Mapping[str, Any],
    device: torch.device,
    title: str,
) -> dict[str, Any]:
    model = subject.as_dict()
    images = checked(
        "",
        lambda: pick(
            datamodule.test_dataloader().split,
            n_images=given["n_images"],
            seed=given["seed"],
            device=device,
        ),
    )
    threat = threat_model(subject.trained, given["attack"])
    suite, names = _with_sources(suite, sources, model, device)
    pieces = {
        "schema": suite_record.SCHEMA,
        "suite": suite.name,
        "settings": {key: value for key, value in suite.as_dict().items() if key != "sources"},
        "weights": model["weights_sha256"],
        "data": datamodule.fingerprint,
        "threat": threat.as_dict(),
        "n": len(images.y),
        "seed": given["seed"],
        "batch_size": given["batch_size"],
    }
    # A source more or less leaves the other attacks' pieces as they are.
    evaluation_id = suite_record.identity_hash(pieces | {"sources": names})
    path = subject.home / "evaluations" / f"{suite.name}.json"
    journal_folder = path.with_name(f"{suite.name}.progress")
    record = None if given["rerun"] else suite_record.finished(path, evaluation_id)
    if record is not None:
        print(f"already evaluated (rerun=true does it again): {path}")  # noqa: T201
        Journal(journal_folder, pieces).remove() if journal_folder.exists() else None
        return record
    journal = Journal(journal_folder, pieces)
    bench = Bench(
        network=subject.network.to(device),
        images=images,
        threat=threat,
        seed=given["seed"],
        batch_size=given["batch_size"],
        journal=journal,
        progress=Progress(title, suite.passes),
    )
    with exact_arithmetic():
        with subject.blamed(Exception):  # its forward is anybody's code
            predict(bench.network, images.x[:2], classes=datamodule.num_classes)
        with subject.blamed(ValueError):
            outcome = suite.run(bench)
    record = {
        "kind": "whitebox",
        "suite": suite.name,
        "evaluation_id": evaluation_id,
        "model": model,
        "data": datamodule.provenance(),
        "split": "test",
        "subset": {"seed": given["seed"], "n_images": given["n_images"]},
        "batch_size": given["batch_size"],
        "engine": threat.engine,
        "attack": suite.describe(threat),
        **accuracies(outcome.correct),
        **outcome.details,
        **suite_record.stamp(device, journal.wall_s),
    }
    arrays = {"index": images.index, **outcome.correct, **outcome.arrays}
    record = suite_record.write(path, record, arrays)
    journal.remove()
    return record


def _with_sources(
    suite: Suite, sources: Sequence[Subject], model: Mapping[str, str], device: torch.device
) -> tuple[Suite, dict[str, str]]:
    """The suite with the sources that are not the network itself, and hashes of their weights."""
    if not isinstance(suite, StrongSuite):
        return suite, {}
    networks, hashes = {}, {}
    for source in sources:
        weights = source.as_dict()["weights_sha256"]
        if weights != model["weights_sha256"] and weights not in hashes.values():
            name = source.label if source.label not in networks else f"{source.label}-{weights[:8]}"
            networks[name], hashes[name] = source.network.to(device), weights
    return replace(suite, sources=networks), hashes


@cli.command("evaluate")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.evaluate``."""
    evaluate(cfg)


if __name__ == "__main__":
    main()
