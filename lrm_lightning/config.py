"""The configuration: where it lies, what identifies a run, and whether every value makes sense."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lrm_lightning.checks import check_choice, check_flag, check_integer, check_number
from lrm_lightning.errors import UserError

# Importing torch takes seconds, which --help and a sweep's parent need not wait for.
if TYPE_CHECKING:
    from torch import nn

    from lrm_lightning.attacks import PGDAttack
    from lrm_lightning.data import ImageDataModule

# What does not change a run's result: where it writes, who watches, on what it runs.
NOT_IDENTIFYING = ("hydra", "runs_dir", "rerun", "sweep", "logger", "engine")
NOT_IDENTIFYING_IN = {
    "data": ("root", "download"),
    "trainer": ("accelerator", "devices", "num_nodes", "strategy", "log_every_n_steps"),
    "checkpoint": ("every_minutes",),
}


def conf_dir() -> Path:
    """Folder of the YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts and lists, without Hydra's own."""
    with_hydra = {key: value for key, value in cfg.items_ex(resolve=False) if key != "hydra"}
    bare = OmegaConf.create(with_hydra, flags={"allow_objects": False})
    resolved = OmegaConf.to_container(bare, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The part of the configuration that determines a run's result."""
    kept = {key: value for key, value in plain(cfg).items() if key not in NOT_IDENTIFYING}
    for group, keys in NOT_IDENTIFYING_IN.items():
        if isinstance(kept.get(group), dict):
            kept[group] = {key: v for key, v in kept[group].items() if key not in keys}
    return kept


def run_id(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name the configuration; equal configurations share them."""
    canonical = json.dumps(identity(cfg), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def build_datamodule(cfg: DictConfig) -> "ImageDataModule":
    """The DataModule; nothing is read yet."""
    return _build("data", cfg.data, drop=("name",), seed=cfg.seed)


def build_network(cfg: DictConfig, num_classes: int) -> "nn.Module":
    """The network, with fresh weights from torch's global generator."""
    return _build("model", cfg.model, num_classes=num_classes)


def build_attack(cfg: DictConfig) -> "PGDAttack":
    """The training attack, which also sets the threat model of the evaluation."""
    return _build("attack", cfg.attack)


def build_defense(cfg: DictConfig, network: "nn.Module", num_classes: int) -> Any:  # noqa: ANN401
    """The LightningModule."""
    return _build(
        "method",
        cfg.method,
        network=network,
        num_classes=num_classes,
        attack=build_attack(cfg),
        optimizer=_build("optimizer", cfg.optimizer),
        engine=cfg.engine,
    )


def build_robust_accuracy(cfg: DictConfig) -> Any:  # noqa: ANN401
    """The callback that attacks."""
    return _build(
        "robust_accuracy", cfg.robust_accuracy, attack=build_attack(cfg), engine=cfg.engine
    )


def validate(cfg: DictConfig) -> None:
    """Check every value before anything is loaded, trained or submitted.

    Each component's constructor knows its own ranges, so they are constructed here: data without
    reading it, the network without memory.

    Args:
        cfg: The composed configuration.

    Raises:
        UserError: At the first wrong value; names the key, the value and what it must be.
    """
    import torch
    from torch import nn

    from lrm_lightning.engine import ENGINES

    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except Exception as error:
        raise UserError(f"config: {_one_line(error)}") from error
    _checked("", lambda: _check_seed(cfg.seed))
    _checked("", lambda: check_flag("rerun", cfg.rerun))
    _checked("", lambda: check_choice("engine", cfg.engine, ENGINES))
    datamodule = build_datamodule(cfg)
    _checked("data", lambda: _check_validation(cfg, datamodule))
    with torch.device("meta"):
        build_network(cfg, datamodule.num_classes)
    build_defense(cfg, nn.Identity(), datamodule.num_classes)
    build_robust_accuracy(cfg)
    _checked("trainer", lambda: _check_trainer(cfg))
    _checked("checkpoint", lambda: _check_checkpoint(cfg))
    _checked("logger", lambda: check_flag("wandb", cfg.logger.wandb))
    if cfg.logger.wandb:
        modes = ("auto", "online", "offline", "disabled")
        _checked("logger", lambda: check_choice("mode", cfg.logger.mode, modes))
        _checked("logger", lambda: check_flag("checkpoint", cfg.logger.checkpoint))


def _check_seed(seed: object) -> None:
    check_integer("seed", seed, low=0)
    check_number("seed", seed, high=2**63 - 1, why="torch")


def _check_validation(cfg: DictConfig, datamodule: "ImageDataModule") -> None:
    # The best weights are chosen on the validation split; the last ones need none.
    low = 1 if cfg.checkpoint.select == "best" else 0
    check_integer("val_size", datamodule.val_size, low=low)


def _check_trainer(cfg: DictConfig) -> None:
    check_integer("max_epochs", cfg.trainer.max_epochs, low=1)
    check_flag("sync_batchnorm", cfg.trainer.sync_batchnorm)
    for split in ("train", "val", "test"):
        if cfg.trainer.get(f"limit_{split}_batches") == 0:
            raise ValueError(f"limit_{split}_batches=0 leaves nothing; null is all batches")


def _check_checkpoint(cfg: DictConfig) -> None:
    check_choice("select", cfg.checkpoint.select, ("last", "best"))
    check_number("every_minutes", cfg.checkpoint.every_minutes, above=0, high=1e6)
    logged = ["val/acc/clean", "val/acc/fgsm"]
    logged += [f"val/acc/pgd{steps}" for steps in cfg.robust_accuracy.steps]
    if cfg.checkpoint.select == "best":
        check_choice("monitor", cfg.checkpoint.monitor, logged)
        if cfg.robust_accuracy.every_n_epochs != 1:
            raise ValueError("select='best' needs robust_accuracy.every_n_epochs=1")


def _build(group: str, node: DictConfig, *, drop: tuple[str, ...] = (), **extra: Any) -> Any:  # noqa: ANN401
    settings = OmegaConf.to_container(node, resolve=True)
    assert isinstance(settings, dict)
    kwargs = {str(key): value for key, value in settings.items() if key not in drop}

    def construct() -> Any:  # noqa: ANN401
        # Not hydra.utils.instantiate: it turns dataclass arguments, such as an attack, into dicts.
        return get_object(kwargs.pop("_target_"))(**kwargs, **extra)

    return _checked(group, construct)


def _checked(group: str, build: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Run ``build``; a mistake in its arguments becomes a :class:`UserError` naming the group."""
    try:
        return build()
    except (ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
        message = _one_line(error)
        dot = "." if re.match(r"\w+=", message) else ": "
        raise UserError(f"{group}{dot}{message}" if group else message) from error


def _one_line(error: BaseException) -> str:
    return inspect.cleandoc(" ".join(str(error).split()))


# On import, so that a job that a cluster's launcher unpickles elsewhere knows it too: ${run_id:} is
# run_id of the whole configuration.
OmegaConf.register_new_resolver("run_id", lambda *, _root_: run_id(_root_), replace=True)
