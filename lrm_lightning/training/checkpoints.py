"""Checkpoints that a run can go on from exactly."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lrm_lightning.runs.directory import BEST, INTERRUPTED, LAST


class RunCheckpoint(ModelCheckpoint):
    """One file of a run directory, which may be moved between two sessions of a run.

    On resume it finds its own state by the file's name, even if settings changed. It also remembers
    whether a callback had stopped the training, which Lightning forgets.
    """

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}-{self.filename}"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["stopped"] = trainer.should_stop

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        trainer.should_stop = checkpoint.get("stopped", False)


class MidEpochCheckpoint(RunCheckpoint):
    """Saves between two batches of an epoch: every so often, and when a signal ends the run.

    It saves only where Lightning resumes exactly. After an epoch's last batch Lightning would skip
    that epoch's validation on resume, so nothing is saved there; the checkpoint at the end of the
    epoch follows at once.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if not _batches_are_over(trainer):
            super().on_train_batch_end(trainer, *args)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        # Any other exception may come with half of a step done.
        if isinstance(exception, SIGTERMException) and not _batches_are_over(trainer):
            super().on_exception(trainer, pl_module, exception)


def _batches_are_over(trainer: L.Trainer) -> bool:
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def newest_usable(checkpoints: Iterable[Path], defense: L.LightningModule) -> str | None:
    """The first checkpoint that ``defense`` can go on from; for each one skipped it prints why."""
    for path in checkpoints:
        problem = _problem(path, defense)
        if problem is None:
            return str(path)
        rank_zero_only(print)(f"skipping {problem}")
    return None


def _problem(checkpoint: Path, defense: L.LightningModule) -> str | None:
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        missing = {"loops", "optimizer_states", "lr_schedulers", "callbacks"} - saved.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        found = {name: value.shape for name, value in saved["state_dict"].items()}
    except Exception as error:  # any damage: torch raises half a dozen types
        return f"damaged checkpoint {checkpoint}: {' '.join(str(error).split())[:120]}"
    if found != {name: value.shape for name, value in defense.state_dict().items()}:
        return f"checkpoint {checkpoint}: it is of another network"
    return None


def run_checkpoints(
    folder: Path, *, every_minutes: float, best_by: str | None
) -> list[ModelCheckpoint]:
    """The callbacks that write a run directory's checkpoints.

    Args:
        folder: Where to.
        every_minutes: Time between those in the middle of an epoch.
        best_by: The metric by which the best weights are kept too; ``None`` for not at all.
    """
    common: dict[str, Any] = {"dirpath": str(folder), "enable_version_counter": False}
    callbacks: list[ModelCheckpoint] = [
        RunCheckpoint(filename=LAST, save_on_train_epoch_end=True, **common),
        MidEpochCheckpoint(
            filename=INTERRUPTED,
            train_time_interval=timedelta(minutes=every_minutes),
            save_on_exception=True,
            **common,
        ),
    ]
    if best_by is not None:
        callbacks.append(RunCheckpoint(filename=BEST, monitor=best_by, mode="max", **common))
    return callbacks
