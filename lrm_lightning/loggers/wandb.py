"""Weights & Biases: one run a run directory, online with a key, offline without."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig


def wandb_logger(
    cfg: DictConfig, run_dir: Path, config: dict[str, Any], run_id: str
) -> WandbLogger:
    """A logger that never asks a question.

    The run's id is that of its configuration, so a resumed run goes on in the same W&B run.

    Args:
        cfg: The composed configuration; ``cfg.logger`` says where to.
        run_dir: The run directory; offline files go to ``wandb/`` in it.
        config: The resolved configuration, shown in W&B.
        run_id: Name of the configuration.
    """
    mode = _mode(cfg.logger.mode)
    if mode == "offline":
        _say_offline(run_dir)
    import wandb

    logger = WandbLogger(
        name=f"{cfg.method.name}-{run_id}",
        id=run_id,
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        save_dir=str(run_dir),
        group=cfg.sweep,
        job_type=cfg.method.name,
        tags=[*cfg.logger.tags, cfg.data.name],
        config=config,
        mode=mode,
        resume="allow",
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Lightning 2.6 hands on a setting that wandb warns about.
    logger._wandb_init.pop("anonymous", None)
    return logger


@rank_zero_only
def _say_offline(run_dir: Path) -> None:
    upload = f"wandb sync {run_dir}/wandb/offline-run-*"
    print(f"W&B: offline (`wandb login` makes runs appear online; `{upload}` uploads this one)")  # noqa: T201


@rank_zero_only
def finish_wandb() -> None:
    """Close this process's W&B run, if there is one; its files are whole when the process ends."""
    import sys

    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.finish()


def _mode(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    import wandb

    return "online" if wandb.login(prompt=False) else "offline"  # type: ignore[call-arg]
