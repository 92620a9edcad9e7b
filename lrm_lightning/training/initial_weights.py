"""Trained weights that a run starts from."""

from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import EXPORTED, finished_run
from lrm_lightning.runs.files import expanded, file_sha256
from lrm_lightning.runs.networks import saved_settings, weights_file
from lrm_lightning.runs.weights import fill


class InitialWeights(L.Callback):
    """The weights that ``init_from`` names, and their hash, which the run's checkpoints keep.

    A run that has begun goes on with its own weights and no longer needs the file; but if the file
    is still there and has changed, the run is refused.

    Args:
        source: A finished run directory, an export, or a file of weights; ``None`` for fresh ones.
    """

    def __init__(self, source: str | None) -> None:
        self._source = source
        self._kept: dict[str, Any] = {}

    def load(self, network: nn.Module) -> None:
        """Replace the weights of ``network``; raises a UserError if they do not fit."""
        if self._source is not None:
            path, prefix = self._file(self._source)
            fill(network, path, prefix)
            self._kept = {"path": self._source, "sha256": file_sha256(path)}

    def state_dict(self) -> dict[str, Any]:
        """Path as the user gave it, and SHA-256 of the file; empty for fresh weights."""
        return self._kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what the run began with; raises a UserError if that has changed since."""
        self._kept = state_dict
        if not state_dict:
            return
        try:
            path, _ = self._file(state_dict["path"])
        except UserError:  # gone
            return
        if file_sha256(path) != state_dict["sha256"]:
            raise UserError(
                f"init_from={self._source} has other weights now than the run began with: give it"
                " those, another hydra.run.dir=..., or rerun=true to train it again from these"
            )

    def _file(self, source: str) -> tuple[Path, str]:
        path = expanded(source)
        if path.is_dir():
            saved = saved_settings(path)
            if not ((path / EXPORTED).exists() or finished_run(path)):
                raise UserError(f"init_from={source}: the run is not finished")
            return weights_file(path, saved["select"])
        if not path.is_file():
            raise UserError(f"init_from={source}: there is no such run, export or file")
        return path, ""
