"""Score every target on the adversarial examples of every source: the black-box matrix of Table 2.

python -m lrm_lightning.transfer 'sources=[runs/cifar10/*]' 'targets=[other_seed/cifar10/*]'
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lrm_lightning import cli
from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.context import exact_arithmetic
from lrm_lightning.checks import check_flag, check_integer
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.bench import predict
from lrm_lightning.evaluation.blackbox import transfer_matrix
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
from lrm_lightning.evaluation.subjects import Subject, find_runs, from_run
from lrm_lightning.evaluation.suite_table import print_matrix
from lrm_lightning.runs import identity, suite_record
from lrm_lightning.runs.intervals import wilson_interval


def transfer(cfg: DictConfig) -> dict[str, Any]:
    """Make each source's examples once, score them on every target, and record the matrix.

    Args:
        cfg: The composed configuration, ``conf/transfer.yaml``.

    Returns:
        The record.

    Raises:
        UserError: For whatever the user can mend.
    """
    given = identity.plain(cfg)
    device = choose_device(given["device"])
    checked("", lambda: check_flag("rerun", given["rerun"]))
    for key, low in (("steps", 1), ("seed", 0), ("batch_size", 1)):
        checked("", lambda key=key, low=low: check_integer(key, given[key], low=low))
    sources, targets = (_subjects(given, key) for key in ("sources", "targets"))
    attack = replace(_common_threat([*sources, *targets], given), steps=given["steps"])
    datamodule = load_data(_common_data([*sources, *targets], given))
    images = checked(
        "",
        lambda: pick(
            datamodule.test_dataloader().split,
            n_images=given["n_images"],
            seed=given["seed"],
            device=device,
        ),
    )
    described = {
        key: [subject.as_dict() for subject in subjects]
        for key, subjects in (("sources", sources), ("targets", targets))
    }
    determines = {
        "schema": suite_record.SCHEMA,
        **{
            key: [[m["label"], m["weights_sha256"]] for m in each]
            for key, each in described.items()
        },
        "data": datamodule.fingerprint,
        "attack": attack.as_dict(),
        "n": len(images.y),
        "seed": given["seed"],
        "batch_size": given["batch_size"],
    }
    evaluation_id = suite_record.identity_hash(determines)
    path = Path(given["out"]) / "transfer.json"
    record = None if given["rerun"] else suite_record.finished(path, evaluation_id)
    if record is not None:
        print(f"already evaluated (rerun=true does it again): {path}")  # noqa: T201
        print_matrix(record)
        return record
    journal = Journal(path.with_name("transfer.progress"), determines)
    networks = {
        key: {
            f"{key[:-1]} {place} of {len(subjects)}, {each.label}": each.network.to(device)
            for place, each in enumerate(subjects, start=1)
        }
        for key, subjects in (("sources", sources), ("targets", targets))
    }
    passes = 3 * (attack.steps + 1) + len(targets)
    with exact_arithmetic():
        for subject in [*sources, *targets]:
            with subject.blamed(Exception):
                predict(subject.network, images.x[:2], classes=datamodule.num_classes)
        correct = checked(
            "",
            lambda: transfer_matrix(
                **networks,
                images=images,
                attack=attack,
                seed=given["seed"],
                batch_size=given["batch_size"],
                journal=journal,
                progress=Progress("transfer", dict.fromkeys(networks["sources"], passes)),
            ),
        )
    n = len(images.y)
    record = {
        "kind": "blackbox",
        "evaluation_id": evaluation_id,
        **described,
        "attack": attack.as_dict(),
        "engine": attack.engine,
        "data": datamodule.provenance(),
        "split": "test",
        "n": n,
        "subset": {"seed": given["seed"], "n_images": given["n_images"]},
        "accuracy": correct.mean(axis=2).tolist(),
        "intervals": [
            [list(wilson_interval(int(count), n)) for count in row] for row in correct.sum(axis=2)
        ],
        "same_network": [
            [
                source["weights_sha256"] == target["weights_sha256"]
                for source in described["sources"]
            ]
            for target in described["targets"]
        ],
        **suite_record.stamp(device, journal.wall_s),
    }
    record = suite_record.write(path, record, {"index": images.index, "correct": correct})
    journal.remove()
    print_matrix(record)
    return record


def _subjects(given: Mapping[str, Any], key: str) -> list[Subject]:
    subjects = [from_run(path, given["checkpoint"]) for path in find_runs(given[key], key=key)]
    if not subjects:
        raise UserError(f"no {key}: give {key}=[run directory, ...]")
    return subjects


def _common_threat(subjects: Sequence[Subject], given: Mapping[str, Any]) -> PGDAttack:
    threats = {threat_model(each.trained, given["attack"]) for each in subjects}
    if len(threats) > 1:
        raise UserError(
            "the runs were trained against different attacks; choose one with attack.norm=... and"
            " attack.eps=..."
        )
    return threats.pop()


def _common_data(subjects: Sequence[Subject], given: Mapping[str, Any]) -> dict[str, Any]:
    settings = [data_settings(each.trained, given["data"]) for each in subjects]
    if any(each["_target_"] != settings[0]["_target_"] for each in settings):
        raise UserError("the runs were trained on different data; choose one with data.name=...")
    return settings[0]


@cli.command("transfer")
def main(cfg: DictConfig) -> None:
    """Entry point of ``python -m lrm_lightning.transfer``."""
    transfer(cfg)


if __name__ == "__main__":
    main()
