"""One run: build, fit, test, and write the record."""

import math
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lrm_lightning import config
from lrm_lightning.callbacks import (
    Interruption,
    Progress,
    RobustAccuracy,
    WandbMedia,
    run_checkpoints,
)
from lrm_lightning.data import ImageDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation import provenance
from lrm_lightning.evaluation.record import accuracies, write_record, write_verdicts
from lrm_lightning.evaluation.summary import print_summary
from lrm_lightning.failures import in_one_line
from lrm_lightning.layer_sync import BatchNormSync
from lrm_lightning.loggers import (
    MetricsCSV,
    RunLogger,
    SavedBeforeCheckpoints,
    uploads_rest,
    wandb_logger,
)
from lrm_lightning.methods import Defense
from lrm_lightning.ranks import RankWatch
from lrm_lightning.run_dir import METRICS, RunDir


def train(cfg: DictConfig, path: Path) -> float:
    """Train, test and record one run; go on if it was interrupted, skip it if it is finished.

    Args:
        cfg: The composed configuration.
        path: The run directory.

    Returns:
        Robust accuracy on the validation split after training, in [0, 1], for Hydra's sweepers;
        NaN if ``data.val_size=0`` holds none out.

    Raises:
        UserError: For whatever the user can mend.
    """
    config.validate(cfg)
    run_dir = RunDir(path, config.identity(cfg))
    record = None if cfg.rerun else run_dir.record
    if record is not None:
        print(f"already finished (rerun=true trains it again): {path}")  # noqa: T201
        print_summary([("", record, path)])
        rest = uploads_rest(*_tracked(cfg, path)) if cfg.logger.wandb else None
        if rest is not None:
            rest.publish(_published(cfg, run_dir))
            rest.close()
        return _score(record)
    if cfg.rerun and rank_zero_only.rank == 0:
        run_dir.clear()

    torch.manual_seed(cfg.seed)
    datamodule = config.build_datamodule(cfg)
    network = config.build_network(cfg, datamodule.num_classes)
    defense = config.build_defense(cfg, network, datamodule.num_classes)
    attacker = config.build_robust_accuracy(cfg)
    progress, interruption = Progress(path), Interruption()
    if rank_zero_only.rank == 0:
        resolved = config.plain(cfg)
        run_dir.write_config(resolved, resolved["model"] | {"num_classes": datamodule.num_classes})
    *_, metrics = tracked = _tracked(cfg, path)
    tracker = wandb_logger(*tracked)
    try:
        callbacks = [attacker, progress, interruption]
        trainer = build_trainer(cfg, run_dir, callbacks, metrics, tracker)
        with in_one_line(RankWatch(trainer)), interruption.around():
            _fit(trainer, defense, datamodule, run_dir)
            epochs, steps = trainer.current_epoch, trainer.global_step
            _test(trainer, defense, datamodule, cfg, run_dir)
        record = {
            **_record(cfg, trainer, defense, datamodule, attacker),
            "epochs": epochs,
            "global_step": steps,
            "score": attacker.val_metrics.get(f"val/acc/pgd{max(cfg.robust_accuracy.steps)}"),
            "val_metrics": attacker.val_metrics,
            "wall_s": round(progress.elapsed_s, 1),
        }
        if trainer.is_global_zero:
            write_verdicts(path, attacker.index, attacker.correct)
            write_record(path, record)
            print_summary([("", record, path)])
        if tracker is not None:
            tracker.publish(_published(cfg, run_dir))
    finally:
        if tracker is not None:
            tracker.close(failed=sys.exc_info()[0] is not None)
    return _score(record)


def _score(record: dict[str, Any]) -> float:
    return math.nan if record["score"] is None else float(record["score"])


def _tracked(cfg: DictConfig, path: Path) -> tuple[Any, ...]:
    """What W&B's logger is made of; the last is the metrics' file."""
    code = {"versions": provenance.versions(), "git": provenance.git_state()}
    return cfg, path, config.plain(cfg) | code, config.run_id(cfg), MetricsCSV(path / METRICS)


def _published(cfg: DictConfig, run_dir: RunDir) -> Path | None:
    """The weights that were tested, if W&B is to keep them."""
    tested = run_dir.checkpoints / f"{cfg.checkpoint.select}.ckpt"
    return tested if cfg.logger.get("checkpoint") else None


def build_trainer(
    cfg: DictConfig,
    run_dir: RunDir,
    callbacks: list[Callback],
    metrics: MetricsCSV,
    tracker: RunLogger | None,
) -> L.Trainer:
    """The Trainer that ``cfg.trainer`` describes, with what every run has.

    Args:
        cfg: The composed configuration.
        run_dir: Where checkpoints go.
        callbacks: One of them a :class:`~lrm_lightning.callbacks.RobustAccuracy`.
        metrics: Writes the CSV file.
        tracker: W&B's logger, or ``None``.

    Raises:
        UserError: If Lightning refuses a value.
    """
    loggers: list[Any] = [metrics]
    if tracker is not None:
        loggers.append(tracker)
        attacker = next(each for each in callbacks if isinstance(each, RobustAccuracy))
        callbacks = [*callbacks, WandbMedia(tracker, attacker)]
    checkpoints = run_checkpoints(
        run_dir.checkpoints,
        every_minutes=cfg.checkpoint.every_minutes,
        best_by=cfg.checkpoint.monitor if cfg.checkpoint.select == "best" else None,
    )
    try:
        return instantiate(
            cfg.trainer,
            # Without validation images Lightning would warn that there are none.
            **({} if cfg.data.val_size else {"limit_val_batches": 0}),
            # Lightning's own flag insists on torch's version, which is for GPUs alone.
            sync_batchnorm=False,
            plugins=[BatchNormSync()] if cfg.trainer.sync_batchnorm else [],
            logger=loggers,
            callbacks=[*callbacks, SavedBeforeCheckpoints(metrics), *checkpoints],
            default_root_dir=str(run_dir.path),
            inference_mode=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, (MisconfigurationException, ValueError, TypeError)):
            raise UserError(f"trainer: {' '.join(str(cause).split())}") from error
        raise


def _fit(
    trainer: L.Trainer, defense: Defense, datamodule: ImageDataModule, run_dir: RunDir
) -> None:
    checkpoint = next((str(path) for path in run_dir.resumable() if _usable(path, defense)), None)
    trainer.fit(defense, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)


def _usable(checkpoint: Path, defense: Defense) -> bool:
    """Whether the run can go on from there; says so if it cannot."""
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        missing = {"loops", "optimizer_states", "lr_schedulers", "callbacks"} - saved.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        found = {name: value.shape for name, value in saved["state_dict"].items()}
    except Exception as error:  # any damage: torch raises half a dozen types
        problem = f"damaged checkpoint {checkpoint}: {' '.join(str(error).split())[:120]}"
    else:
        if found == {name: value.shape for name, value in defense.state_dict().items()}:
            return True
        problem = f"checkpoint {checkpoint}: it is of another network"
    rank_zero_only(print)(f"skipping {problem}")
    return False


def _test(
    trainer: L.Trainer,
    defense: Defense,
    datamodule: ImageDataModule,
    cfg: DictConfig,
    run_dir: RunDir,
) -> None:
    best = str(run_dir.checkpoints / "best.ckpt") if cfg.checkpoint.select == "best" else None
    weights_only = True if best else None
    trainer.test(
        defense, datamodule=datamodule, ckpt_path=best, verbose=False, weights_only=weights_only
    )


def _record(
    cfg: DictConfig,
    trainer: L.Trainer,
    defense: Defense,
    datamodule: ImageDataModule,
    attacker: RobustAccuracy,
) -> dict[str, Any]:
    return {
        "run_id": config.run_id(cfg),
        "method": defense.name,
        "seed": cfg.seed,
        "data": datamodule.provenance(),
        "training_attack": defense.attack.as_dict(),
        "attack": attacker.attack.as_dict() | {"test_steps": list(cfg.robust_accuracy.test_steps)},
        "split": "test",
        "checkpoint": cfg.checkpoint.select,
        **accuracies(attacker.correct),
        "test_metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "config": config.plain(cfg),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "hardware": provenance.hardware(trainer.strategy.root_device, trainer.world_size),
    }
