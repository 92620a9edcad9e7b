"""What an evaluation leaves behind: one JSON and one file of verdicts a suite."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.runs import provenance
from lrm_lightning.runs.files import read_json, write_json

SCHEMA = 1


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name what determines an evaluation's result."""
    canonical = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def stamp(device: torch.device, wall_s: float) -> dict[str, Any]:
    """Where and when a number was made."""
    versions = provenance.versions() | {"pyautoattack": metadata.version("pyautoattack")}
    return {
        "wall_s": round(wall_s, 1),
        "versions": versions,
        "git": provenance.git_state(),
        "hardware": provenance.hardware(device, 1),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def finished(path: Path, evaluation_id: str) -> dict[str, Any] | None:
    """The record at ``path`` if it is of this very evaluation."""
    try:
        record = read_json(path)
    except UserError:  # damaged: it is made anew
        return None
    matches = record is not None and record.get("evaluation_id") == evaluation_id
    return record if matches and path.with_suffix(".npz").exists() else None


def write(
    path: Path, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write ``arrays`` beside ``path`` and then the record, whose presence says: finished.

    Returns:
        The record, with its schema.

    Raises:
        UserError: If they can't be written.
    """
    verdicts = path.with_suffix(".npz")
    partial = path.with_suffix(".partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(partial, **arrays)  # pyright: ignore[reportArgumentType]
        partial.replace(verdicts)
    except OSError as error:
        raise UserError(
            f"cannot write {verdicts}: {error.strerror}; free space and run again"
        ) from error
    stamped = {"schema": SCHEMA, **record}
    write_json(path, stamped)
    return stamped
