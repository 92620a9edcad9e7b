"""One run: build, fit, test, and write the record."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lrm_lightning.data import ImageDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.tables import print_runs
from lrm_lightning.methods import Defense
from lrm_lightning.runs import identity, provenance
from lrm_lightning.runs.directory import CORRECT, RECORD, RunDir
from lrm_lightning.runs.files import write_arrays
from lrm_lightning.runs.intervals import accuracies
from lrm_lightning.runs.records import RunRecord, write_record
from lrm_lightning.tracking.loggers import open_loggers, upload_rest
from lrm_lightning.tracking.metrics_csv import SavedBeforeCheckpoints
from lrm_lightning.tracking.wandb import WandbMedia
from lrm_lightning.training import build
from lrm_lightning.training.batch_norm_sync import BatchNormSync
from lrm_lightning.training.checkpoints import run_checkpoints
from lrm_lightning.training.failures import in_one_line
from lrm_lightning.training.interruption import Interruption
from lrm_lightning.training.progress import Progress
from lrm_lightning.training.robust_accuracy import RobustAccuracy


def train(cfg: DictConfig, path: Path) -> float | None:
    """Train, test and record one run; go on if it was interrupted, skip it if it is finished.

    Args:
        cfg: The composed configuration.
        path: The run directory.

    Returns:
        Robust accuracy on the validation split after training, in [0, 1], for Hydra's sweepers.

    Raises:
        UserError: For whatever the user can mend.
    """
    build.validate(cfg)
    run_dir = RunDir(path, identity.identity(cfg))
    record = None if cfg.rerun else run_dir.record
    if record is not None:
        print(f"already finished (rerun=true trains it again): {path}")  # noqa: T201
        print_runs([("", record, path)])
        upload_rest(cfg, path, record.val_metrics | record.test_metrics)
        return record.score
    with run_dir.locked() if rank_zero_only.rank == 0 else nullcontext():
        return _train(cfg, run_dir)


def _train(cfg: DictConfig, run_dir: RunDir) -> float | None:
    path = run_dir.path
    if cfg.rerun and rank_zero_only.rank == 0:
        run_dir.clear()
    torch.manual_seed(cfg.seed)
    datamodule = build.build_datamodule(cfg)
    network = build.build_network(cfg, datamodule.num_classes)
    defense = build.build_defense(cfg, network, datamodule.num_classes)
    attacker = build.build_robust_accuracy(cfg)
    progress, interruption = Progress(path, attacker), Interruption()
    if rank_zero_only.rank == 0:
        resolved = identity.plain(cfg)
        run_dir.write_config(resolved, resolved["model"] | {"num_classes": datamodule.num_classes})
    with open_loggers(cfg, path) as loggers:
        callbacks = [attacker, progress, interruption, WandbMedia(attacker)]
        trainer = build_trainer(cfg, run_dir, [*callbacks, *build.build_callbacks(cfg)], loggers)
        with in_one_line(trainer), interruption.around():
            _fit(trainer, defense, datamodule, run_dir)
            # Not trainer.current_epoch, which is one less after resuming a training that had ended.
            epochs = trainer.fit_loop.epoch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]
            steps = trainer.global_step
            _test(trainer, defense, datamodule, cfg, run_dir)
        score = attacker.val_metrics.get(f"val/acc/pgd{max(cfg.robust_accuracy.steps)}")
        record = RunRecord(
            **_record(cfg, trainer, defense, datamodule, attacker),
            epochs=epochs,
            global_step=steps,
            score=score,
            val_metrics=attacker.val_metrics,
            wall_s=round(progress.elapsed_s, 1),
        )
        if trainer.is_global_zero:
            write_arrays(path / CORRECT, {"index": attacker.index} | attacker.correct)
            write_record(path / RECORD, record)
            print_runs([("", record, path)])
    return score


def build_trainer(
    cfg: DictConfig,
    run_dir: RunDir,
    callbacks: list[Callback],
    loggers: list[Logger],
) -> L.Trainer:
    """The Trainer that ``cfg.trainer`` describes, with what every run has.

    Args:
        cfg: The composed configuration.
        run_dir: Where checkpoints go.
        callbacks: What else happens.
        loggers: Where metrics go.

    Raises:
        UserError: If Lightning refuses a value.
    """
    checkpoints = run_checkpoints(
        run_dir.checkpoints,
        every_minutes=cfg.checkpoint.every_minutes,
        best_by=cfg.checkpoint.monitor if cfg.checkpoint.select == "best" else None,
    )
    try:
        return instantiate(
            cfg.trainer,
            # Lightning's own flag insists on torch's version, which is for GPUs alone.
            sync_batchnorm=False,
            plugins=[BatchNormSync()] if cfg.trainer.sync_batchnorm else [],
            logger=loggers,
            callbacks=[*callbacks, SavedBeforeCheckpoints(), *checkpoints],
            default_root_dir=str(run_dir.path),
            inference_mode=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
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
        "run_id": identity.run_id(cfg),
        "method": defense.name,
        "seed": cfg.seed,
        "data": datamodule.provenance(),
        "training_attack": defense.attack.as_dict(),
        "attack": attacker.attack.as_dict() | {"steps": list(cfg.robust_accuracy.test_steps)},
        "split": "test",
        "checkpoint": cfg.checkpoint.select,
        **accuracies(attacker.correct),
        "test_metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "config": identity.plain(cfg),
        **provenance.stamp(trainer.strategy.root_device, trainer.world_size),
    }
