"""From the configuration to the objects of a run, and whether every value makes sense."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lrm_lightning.checks import check_choice, check_flag, check_integer, check_number
from lrm_lightning.errors import UserError, text_of
from lrm_lightning.runs.identity import check_keys, check_kinds, flat, identity, numeric

# Importing torch takes seconds, which --help and a sweep's parent need not wait for.
if TYPE_CHECKING:
    import lightning as L
    from torch import nn

    from lrm_lightning.attacks import Attack
    from lrm_lightning.data import ImageDataModule

# Weights and pixels stay in float32 at least: in less, attacks lose their gradients.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
OPTIMIZER_RANGES: dict[str, dict[str, Any]] = {
    "lr": {"above": 0},
    "momentum": {"low": 0, "high": 1},
    "weight_decay": {"low": 0},
}
# Arguments of the Trainer that the program gives.
GIVEN = {
    "logger", "callbacks", "plugins", "default_root_dir", "inference_mode", "enable_progress_bar",
    "enable_model_summary", "num_sanity_val_steps", "use_distributed_sampler",
}  # fmt: skip
# Arguments of the Trainer that end a training within an epoch, and what of them does not.
ENDS_EARLY = {"fast_dev_run": (None, False), "max_steps": (None, -1), "max_time": (None,)}


def build_datamodule(cfg: DictConfig) -> "ImageDataModule":
    """The DataModule; nothing is read yet."""
    return _build("data", cfg.data, drop=("name",), seed=cfg.seed)


def of_data(cfg: DictConfig, num_classes: int, in_channels: int = 3) -> dict[str, Any]:
    """What the network is told of the data: classes, and channels if it has such an argument."""

    def told() -> dict[str, Any]:
        takes = inspect.signature(get_object(cfg.model._target_)).parameters
        channels = {"in_channels": in_channels} if "in_channels" in takes else {}
        return {"num_classes": num_classes} | channels

    return _checked("model", told) if "_target_" in cfg.model else {}


def build_network(cfg: DictConfig, num_classes: int, in_channels: int = 3) -> "nn.Module":
    """The network, with fresh weights from torch's global generator."""
    return _build("model", cfg.model, **of_data(cfg, num_classes, in_channels))


def check_network(network: "nn.Module", datamodule: "ImageDataModule") -> None:
    """Raise a UserError unless the network takes the images, which have been read."""
    from lrm_lightning.attacks.forward import predict

    x = datamodule.test_dataloader().split.images[:2].float() / 255
    _checked("model", lambda: predict(network, x, classes=datamodule.num_classes))


def build_attack(cfg: DictConfig) -> "Attack":
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
        scheduler=_build("scheduler", cfg.scheduler, drop=("name",)),
    )


def build_robust_accuracy(cfg: DictConfig) -> Any:  # noqa: ANN401
    """The callback that attacks."""
    return _build("robust_accuracy", cfg.robust_accuracy, attack=build_attack(cfg))


def build_callbacks(cfg: DictConfig) -> list[Any]:
    """The user's own callbacks, which come in addition to the program's."""
    import lightning as L

    callbacks = []
    for name, node in (cfg.get("callbacks") or {}).items():
        callbacks.append(_build(f"callbacks.{name}", node))
        if not isinstance(callbacks[-1], L.Callback):
            raise UserError(f"callbacks.{name}: {node._target_} is no callback of Lightning")
    return callbacks


def sources(cfg: DictConfig) -> dict[str, str]:
    """SHA-256 in hex of the modules of what ``cfg`` names, as :func:`provenance.sources`."""
    from lrm_lightning.runs import provenance

    targets = (each for key, each in flat(identity(cfg)).items() if key.endswith("_target_"))
    return provenance.sources(map(get_object, targets))


def build_trainer(cfg: DictConfig, **given: Any) -> "L.Trainer":
    """The Trainer that ``cfg.trainer`` describes, with what the program gives it."""
    try:
        return _build("trainer", cfg.trainer, **given)
    except UserError as error:  # in Lightning's words for an accelerator that is not there
        if not re.search(r"No supported gpu backend|can not run on your system", str(error)):
            raise
        wanted = f"trainer.accelerator={cfg.trainer.accelerator}"
        raise UserError(f"{wanted}: there is none; take trainer=auto or trainer=cpu") from error


def validate(cfg: DictConfig) -> None:
    """Check every value before anything is loaded, trained or submitted.

    Each component's constructor knows its own ranges, so they are constructed here: data without
    reading it, the network without memory, the optimiser for a parameter that stands for all.

    Args:
        cfg: The composed configuration.

    Raises:
        UserError: At the first wrong value; names the key, the value and what it must be.
    """
    import lightning as L
    import torch
    from torch import nn

    from lrm_lightning.tracking.loggers import check_loggers

    _checked("config", lambda: OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    check_kinds(cfg, "config")
    of_trainer = {"_target_", *inspect.signature(L.Trainer).parameters} - GIVEN
    check_keys(cfg, "config", trainer=of_trainer)
    _checked("", lambda: _check_top(cfg))
    datamodule = build_datamodule(cfg)
    _checked("data", lambda: check_integer("val_size", datamodule.val_size, low=0))
    if cfg.checkpoint.select == "best" and not datamodule.val_size:
        raise UserError("checkpoint.select=best needs a validation split; data.val_size is 0")
    with torch.device("meta"):
        build_network(cfg, datamodule.num_classes, datamodule.in_channels)
        defense = build_defense(cfg, nn.Linear(1, 1), datamodule.num_classes)
    build_robust_accuracy(cfg)
    _checked("trainer", lambda: _check_trainer(cfg))
    _checked("optimizer", lambda: _check_optimizer(cfg.optimizer))
    optimizer = _checked("optimizer", defense.make_optimizer)
    _checked("scheduler", lambda: _check_scheduler(cfg, defense, optimizer))
    for each in build_callbacks(cfg):
        monitor = str(getattr(each, "monitor", None))
        if monitor.startswith("val/") and not datamodule.val_size:
            raise UserError(f"callbacks: {monitor} needs a validation split; data.val_size is 0")
        if monitor.startswith("val/acc/") and cfg.robust_accuracy.every_n_epochs != 1:
            raise UserError(f"callbacks: {monitor} needs robust_accuracy.every_n_epochs=1")
    _checked("checkpoint", lambda: _check_checkpoint(cfg))
    check_loggers(cfg)


def _check_top(cfg: DictConfig) -> None:
    check_integer("seed", cfg.seed, low=0, high=2**63 - 1)  # as torch's
    check_flag("rerun", cfg.rerun)


def _check_trainer(cfg: DictConfig) -> None:
    import lightning as L

    given: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    check_integer("max_epochs", cfg.trainer.max_epochs, low=1)
    check_flag("sync_batchnorm", cfg.trainer.sync_batchnorm)
    check_choice("precision", cfg.trainer.precision, PRECISIONS)
    strict = ConfigDict(arbitrary_types_allowed=True, strict=True)
    for name, parameter in inspect.signature(L.Trainer).parameters.items():
        try:  # Lightning itself checks few
            wanted = TypeAdapter(parameter.annotation, config=strict)
            wanted.validate_python(given.get(name, parameter.default))
        except ValidationError as error:
            wanted = inspect.formatannotation(parameter.annotation)
            raise ValueError(f"{name}={given[name]!r} must be {wanted}") from error
    if given.get("log_every_n_steps") is not None:
        check_integer("log_every_n_steps", given["log_every_n_steps"], low=1)
    for name, unlimited in ENDS_EARLY.items():
        if given.get(name) not in unlimited:
            raise ValueError(
                f"{name}={given[name]!r} would end a training before its checkpoint and validation;"
                " use debug=fast, or max_epochs=1 and limit_train_batches=..."
            )
    for name, unset in (("check_val_every_n_epoch", [1]), ("val_check_interval", [None, 1.0])):
        if given.get(name, unset[0]) not in unset:
            wanted = "robust_accuracy.every_n_epochs says how often images are attacked"
            raise ValueError(f"{name}={given[name]!r} must be {unset[-1]}; {wanted}")
    for split in ("train", "val", "test"):
        if cfg.trainer.get(f"limit_{split}_batches") == 0:
            raise ValueError(f"limit_{split}_batches=0 leaves nothing; null is all batches")


def _check_optimizer(settings: DictConfig) -> None:
    for name, bounds in OPTIMIZER_RANGES.items():
        if name in settings:
            check_number(name, settings[name], **bounds)


def _check_scheduler(cfg: DictConfig, defense: Any, optimizer: Any) -> None:  # noqa: ANN401
    scheduler = defense.make_scheduler(optimizer, epochs=cfg.trainer.max_epochs, steps_per_epoch=1)
    optimizer.step()
    scheduler.step()  # some find a value wrong only now


def _check_checkpoint(cfg: DictConfig) -> None:
    check_choice("select", cfg.checkpoint.select, ("last", "best"))
    check_number("every_minutes", cfg.checkpoint.every_minutes, above=0, high=1e6)
    logged = ["val/acc/clean", "val/acc/fgsm"]
    logged += [f"val/acc/pgd{steps}" for steps in cfg.robust_accuracy.steps]
    if cfg.checkpoint.select == "best":
        check_choice("monitor", cfg.checkpoint.monitor, logged)
        if cfg.robust_accuracy.every_n_epochs != 1:
            raise ValueError("select='best' needs robust_accuracy.every_n_epochs=1")


def _build(group: str, node: Any, *, drop: tuple[str, ...] = (), **extra: Any) -> Any:  # noqa: ANN401
    """What ``node`` describes, with ``extra`` arguments; not by Hydra, which makes dicts of some.

    Raises:
        UserError: If it can't be made; names the ``group``.
    """
    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{group} must be a mapping with _target_, the name of a class")
    settings = numeric(OmegaConf.to_container(node, resolve=True))
    arguments = {key: each for key, each in settings.items() if key[0] != "_" and key not in drop}

    def construct() -> Any:  # noqa: ANN401
        target = get_object(settings["_target_"])
        target = partial(partial, target) if settings.get("_partial_") else target
        return target(**(arguments | extra))

    return _checked(group, construct)


def _checked(group: str, check: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Call ``check``; a mistake that it finds becomes a :class:`UserError` naming the group."""
    try:
        return check()
    except UserError:
        raise
    except Exception as error:  # of anybody's class
        message = text_of(error)
        dot = "." if re.match(r"\w+=", message) else ": "
        raise UserError(f"{group}{dot}{message}" if group else message) from error
