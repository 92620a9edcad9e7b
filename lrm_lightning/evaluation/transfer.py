"""The paper's black-box evaluation: examples made on one network, scored on another (Table 2)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lrm_lightning.checks import check_integer
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.bench import Bench, correct_on
from lrm_lightning.evaluation.cache import Piece
from lrm_lightning.evaluation.session import Found, Session, as_user_error, say_if_short
from lrm_lightning.runs.directory import TRANSFER
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.records import TransferRecord


def transfer_matrix(
    bench: Bench, sources: Mapping[str, nn.Module], targets: Sequence[nn.Module]
) -> np.ndarray:
    """Which images each target classifies correctly, attacked on each source: Table 2's verdicts.

    Each source's examples are made once and shown to every target; all images are attacked, whether
    the source classifies them correctly or not. The bench's threat is the whole attack (the paper's
    is PGD with 10 steps); its random starts are the same on every source. Bool
    ``(targets, sources, n)``.
    """

    def column(stage: str, source: nn.Module) -> np.ndarray:
        def score(places: np.ndarray, x: Tensor, y: Tensor) -> Piece:
            x_adv = bench.threat(source, x, y, start=bench.starts(bench.threat, places, "blackbox"))
            return {"correct": np.stack([correct_on(each, x_adv, y) for each in targets], axis=1)}

        return bench.compute(stage, np.arange(len(bench.images.y)), score)["correct"].T

    return np.stack([column(name, source) for name, source in sources.items()], axis=1)


def transfer(given: Mapping[str, Any], overrides: Sequence[str] = ()) -> TransferRecord:
    """Record the matrix of sources and targets, as ``conf/transfer.yaml`` says.

    The command line's ``overrides`` are kept in the record, so that it can be made again.
    """
    session = Session(given, overrides)
    given = session.given
    with as_user_error():
        check_integer("steps", given["steps"], low=1)
    foreign = session.foreign()
    networks = {
        key: session.networks(key, given["checkpoint"]) + foreign for key in ("sources", "targets")
    }
    for key, found in networks.items():
        if not found:
            raise UserError(f"no {key}: give {key}=[run directory, ...]")
    sources, targets = networks.values()
    attack = replace(session.threat([*sources, *targets]), steps=given["steps"])
    pieces = {
        **{k: [[n.about.label, n.about.weights_sha256] for n in v] for k, v in networks.items()},
        "attack": attack.as_dict(),
    }

    def make(bench: Bench) -> Found:
        say_if_short(attack, [attack.steps])
        stages = {
            f"source {place} of {len(sources)}, {each.about.label}": each.module
            for place, each in enumerate(sources, start=1)
        }
        with as_user_error():
            correct = transfer_matrix(bench, stages, [each.module for each in targets])
        n, counts = correct.shape[2], correct.sum(axis=2)
        made_on, scored = (
            [each.about.weights_sha256 for each in found] for found in (sources, targets)
        )
        fields = {
            "kind": "blackbox",
            "sources": [each.about for each in sources],
            "targets": [each.about for each in targets],
            "overrides": session.overrides(**networks),
            "attack": attack.as_dict(),
            "accuracy": correct.mean(axis=2).tolist(),
            "intervals": [[wilson_interval(int(count), n) for count in row] for row in counts],
            "same_network": [[source == target for source in made_on] for target in scored],
        }
        return fields, {"correct": correct}

    path = Path(given["out"]) / TRANSFER
    everyone = [*sources, *targets]
    return session.record(path, TransferRecord, everyone, attack, "transfer", pieces, {}, make)
