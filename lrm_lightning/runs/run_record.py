"""A run's record: everything a table, a figure or a reader needs to know of one trained model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import read_json, write_json
from lrm_lightning.runs.intervals import wilson_interval

RECORD, VERDICTS = "record.json", "correct.npz"
SCHEMA = 1


def accuracies(correct: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy and 95% Wilson interval of each attack from its verdicts, bool ``(n,)`` each.

    Returns:
        ``n``, ``metrics`` (name to accuracy in [0, 1]) and ``intervals`` (name to [low, high]).
    """
    (n,) = {len(each) for each in correct.values()}
    return {
        "n": n,
        "metrics": {name: float(each.mean()) for name, each in correct.items()},
        "intervals": {
            name: list(wilson_interval(int(each.sum()), n)) for name, each in correct.items()
        },
    }


def write_record(run_dir: Path, record: dict[str, Any]) -> None:
    """Write ``record.json``: its presence says that the run is finished."""
    stamped = {"schema": SCHEMA, "written": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(run_dir / RECORD, stamped | record)


def read_record(run_dir: Path) -> dict[str, Any] | None:
    """The record of a finished run, ``None`` of an unfinished one.

    Raises:
        UserError: If the file is damaged.
    """
    return read_json(run_dir / RECORD)


def write_verdicts(run_dir: Path, index: np.ndarray, correct: Mapping[str, np.ndarray]) -> None:
    """Write each image's verdicts to ``correct.npz``: ``index`` and one bool array an attack."""
    path = run_dir / VERDICTS
    partial = path.with_suffix(".partial.npz")
    try:
        np.savez_compressed(partial, index=index, **correct)  # pyright: ignore[reportArgumentType]
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space and run again"
        ) from error
