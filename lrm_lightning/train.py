"""Train a defence, test it with the paper's attacks, and leave a record.

python -m lrm_lightning.train method=alp
python -m lrm_lightning.train -m method=alp,pgd,lrm
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lrm_lightning import cli, config
from lrm_lightning.callbacks import MidEpochCheckpoint, Progress, RobustAccuracy, RunCheckpoint
from lrm_lightning.data import ImageDataModule
from lrm_lightning.errors import NotFiniteError, UserError
from lrm_lightning.evaluation import provenance
from lrm_lightning.evaluation.record import accuracies, write_record, write_verdicts
from lrm_lightning.evaluation.summary import print_summary
from lrm_lightning.interruption import between_batches
from lrm_lightning.loggers import (
    MetricsCSV,
    SavedBeforeCheckpoints,
    finish_wandb,
    wandb_logger,
)
from lrm_lightning.methods import Defense
from lrm_lightning.models.sync_batch_norm import BatchNormSync
from lrm_lightning.run_dir import METRICS, RunDir


def train(cfg: DictConfig, path: Path) -> float:
    """Train, test and record one run; go on if it was interrupted, skip it if it is finished.

    Args:
        cfg: The composed configuration.
        path: The run directory.

    Returns:
        Robust accuracy on the validation split after training, in [0, 1], for Hydra's sweepers.

    Raises:
        UserError: For whatever the user can mend.
    """
    config.validate(cfg)
    run_dir = RunDir(path, config.identity(cfg))
    record = None if cfg.rerun else run_dir.record
    if record is not None:
        print(f"already finished (rerun=true trains it again): {path}")  # noqa: T201
        print_summary([("", record, path)])
        return float(record["score"])
    if cfg.rerun and rank_zero_only.rank == 0:
        run_dir.clear()

    torch.manual_seed(cfg.seed)
    datamodule = config.build_datamodule(cfg)
    network = config.build_network(cfg, datamodule.num_classes)
    defense = config.build_defense(cfg, network, datamodule.num_classes)
    attacker = config.build_robust_accuracy(cfg)
    progress = Progress(path)
    if rank_zero_only.rank == 0:
        resolved = config.plain(cfg)
        run_dir.write_config(resolved, resolved["model"] | {"num_classes": datamodule.num_classes})
    try:
        trainer = _trainer(cfg, run_dir, [attacker, progress])
        with between_batches():
            _fit(trainer, defense, datamodule, run_dir)
            epochs, steps = trainer.current_epoch, trainer.global_step
            _test(trainer, defense, datamodule, cfg, run_dir)
        score = attacker.val_metrics.get(f"val/acc/pgd{max(cfg.robust_accuracy.steps)}")
        record = {
            **_record(cfg, trainer, defense, datamodule, attacker),
            "epochs": epochs,
            "global_step": steps,
            "score": score,
            "val_metrics": attacker.val_metrics,
            "wall_s": round(progress.elapsed_s, 1),
        }
        if trainer.is_global_zero:
            write_verdicts(path, attacker.index, attacker.correct)
            write_record(path, record)
            print_summary([("", record, path)])
    except NotFiniteError as error:
        raise UserError(f"training diverged: {error}; lower optimizer.lr") from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            "out of GPU memory: lower data.batch_size and data.eval_batch_size"
        ) from error
    finally:
        finish_wandb()
    return score


def _trainer(cfg: DictConfig, run_dir: RunDir, callbacks: list[Callback]) -> L.Trainer:
    csv = MetricsCSV(run_dir.path / METRICS)
    loggers: list[Any] = [csv]
    if cfg.logger.wandb and cfg.logger.mode != "disabled":
        loggers.append(wandb_logger(cfg, run_dir.path, config.plain(cfg), config.run_id(cfg)))
    try:
        return instantiate(
            cfg.trainer,
            # Lightning's own flag insists on torch's version, which is for GPUs alone.
            sync_batchnorm=False,
            plugins=[BatchNormSync()] if cfg.trainer.sync_batchnorm else [],
            logger=loggers,
            callbacks=[*callbacks, SavedBeforeCheckpoints(csv), *_checkpoints(cfg, run_dir)],
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


def _checkpoints(cfg: DictConfig, run_dir: RunDir) -> list[Callback]:
    folder = str(run_dir.checkpoints)
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks: list[Callback] = [
        RunCheckpoint(filename="last", save_on_train_epoch_end=True, **common),
        MidEpochCheckpoint(
            filename="interrupted",
            train_time_interval=timedelta(minutes=cfg.checkpoint.every_minutes),
            save_on_exception=True,
            **common,
        ),
    ]
    if cfg.checkpoint.select == "best":
        callbacks.append(
            RunCheckpoint(filename="best", monitor=cfg.checkpoint.monitor, mode="max", **common)
        )
    return callbacks


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


@hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")
def _app(cfg: DictConfig) -> float | None:
    # Lightning starts other ranks with a run directory of its own making; ours travels beside it.
    path = os.environ.setdefault("LRM_RUN_DIR", HydraConfig.get().runtime.output_dir)
    try:
        return train(cfg, Path(path))
    except UserError as error:
        cli.fail(error)
    except OSError as error:
        cli.fail(UserError(f"{error} (run directory {path}); mend it and run the command again"))
    finally:
        os.environ.pop("LRM_RUN_DIR", None)
    return None


def main() -> None:
    """Entry point of ``python -m lrm_lightning.train``."""
    cli.run(_app)


if __name__ == "__main__":
    main()
