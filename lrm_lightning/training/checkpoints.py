"""Checkpoints that a run can go on from exactly."""

import io
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from lrm_lightning.errors import UserError
from lrm_lightning.methods import Defense
from lrm_lightning.runs.directory import (
    BEST,
    INTERRUPTED,
    LAST,
    PREVIOUS,
    RunDir,
    checkpoint_path,
    finished_run,
)
from lrm_lightning.runs.files import counted, replacing
from lrm_lightning.runs.identity import flat, identity
from lrm_lightning.runs.integrity import sealed
from lrm_lightning.runs.networks import saved_settings
from lrm_lightning.runs.weights import WHOSE, checkpoint_owner, flaw, read_checkpoint
from lrm_lightning.training.interruption import ranks_talk
from lrm_lightning.training.lightning_internals import log_batch_at_hand

NEEDED = {"state_dict", "loops", "optimizer_states", "lr_schedulers", "callbacks"}


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

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        batch_idx = args[-1]
        if ranks_talk(trainer, batch_idx) and not _batches_are_over(trainer):
            super().on_train_batch_end(trainer, pl_module, *args)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        log_batch_at_hand(trainer)  # a run that goes on from here won't
        super()._save_checkpoint(trainer, filepath)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        # Any other exception may come with half of a step done.
        if isinstance(exception, SIGTERMException) and not _batches_are_over(trainer):
            super().on_exception(trainer, pl_module, exception)


def _batches_are_over(trainer: L.Trainer) -> bool:
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


class RunCheckpointIO(TorchCheckpointIO):
    """Files that are whole, of this run and as they were written; anything else is refused.

    Lightning's own moves a file into place by copying it where temporary files lie on another file
    system, and a kill meanwhile leaves half of it. This one writes beside the target, and keeps the
    last checkpoint but one of an epoch's end.

    Args:
        run_id: Written into each checkpoint.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        path, content = Path(path), io.BytesIO()
        whose = {WHOSE: checkpoint_owner(path, self._run_id)}
        torch.save(sealed(checkpoint | whose), content)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content.getbuffer())
            if path.stem == LAST:
                with suppress(OSError):  # there is none yet, or the file system has no links
                    path.with_stem(PREVIOUS).unlink(missing_ok=True)
                    os.link(path, path.with_stem(PREVIOUS))

    def load_checkpoint(self, path: str | Path, *_: object, **__: object) -> dict[str, Any]:
        """The checkpoint at ``path``; :class:`UserError` if it is damaged or another run's."""
        try:
            saved = read_checkpoint(Path(path), self._run_id)
            missing = NEEDED - saved.keys()
            if missing:
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        except Exception as error:  # any damage: torch raises half a dozen types
            raise UserError(f"checkpoint {path}: {flaw(error)}") from error
        return saved


def newest_usable(
    checkpoints: Iterable[Path], files: RunCheckpointIO, defense: L.LightningModule
) -> str | None:
    """The first checkpoint that ``defense`` can go on from; for each one skipped it prints why."""
    shapes = {name: value.shape for name, value in defense.state_dict().items()}
    for path in checkpoints:
        try:
            state = files.load_checkpoint(path)["state_dict"]
            if {name: value.shape for name, value in state.items()} != shapes:
                raise UserError(f"checkpoint {path}: it is of another network")
        except UserError as error:
            rank_zero_only(print)(f"skipping {error}")
        else:
            return str(path)
    return None


def extend(origin: Path, cfg: DictConfig, run_dir: RunDir, defense: Defense) -> None:
    """Put a finished run's last checkpoint into ``run_dir``, as if that run had been stopped there.

    Weights, optimiser, epoch, step and callbacks go on; the schedule goes on as it would be at that
    step in a training of ``cfg``, whatever the length of the first one.

    Args:
        origin: Directory of the finished run.
        cfg: Of the longer training.
        run_dir: Of the longer training.
        defense: As ``cfg`` describes it.

    Raises:
        UserError: If ``origin`` holds no finished run, or one that differs in more than its length
            and its schedule, or one that is as long.
    """
    before, now = flat(saved_settings(origin)["identity"]), flat(identity(cfg))
    may_differ = ("extend", "trainer.max_epochs", "scheduler.")
    differing = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key) and not key.startswith(may_differ)
    )
    if differing:
        raise UserError(
            f"extend={origin}: it differs in {', '.join(differing[:4])}; only trainer.max_epochs"
            " and the scheduler may"
        )
    record, last = finished_run(origin), checkpoint_path(origin, LAST)
    if record is None or not record.epochs or not record.global_step or not last.exists():
        raise UserError(f"extend={origin}: it is not finished, or has no checkpoint {LAST}")
    epochs = cfg.trainer.max_epochs
    if record.epochs >= epochs:
        has = f"it has {counted(record.epochs, 'epoch')}"
        raise UserError(f"extend={origin}: {has}; give a larger trainer.max_epochs")
    theirs, ours = (RunCheckpointIO(each) for each in (record.run_id, run_dir.run_id))
    saved = theirs.load_checkpoint(last)
    reschedule(saved, defense, epochs=epochs, steps_per_epoch=record.global_step // record.epochs)
    best = checkpoint_path(origin, BEST)
    if best.exists():
        ours.save_checkpoint(theirs.load_checkpoint(best), checkpoint_path(run_dir.path, BEST))
    ours.save_checkpoint(saved | {"stopped": False}, checkpoint_path(run_dir.path, LAST))


def reschedule(
    saved: dict[str, Any], defense: Defense, *, epochs: int, steps_per_epoch: int
) -> None:
    """Give a checkpoint the schedule and rates that a training of ``epochs`` has at its step."""
    optimizer = defense.make_optimizer()
    scheduler = defense.make_scheduler(optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)
    optimizer.step()  # without gradients; torch wants it to come first
    for _ in range(saved["lr_schedulers"][0]["last_epoch"]):
        scheduler.step()
    saved["lr_schedulers"] = [scheduler.state_dict()]
    groups = saved["optimizer_states"][0]["param_groups"]
    for group, now in zip(groups, optimizer.param_groups, strict=True):
        group |= {key: each for key, each in now.items() if key != "params"}


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
