"""The loggers of a run: ``metrics.csv`` always, and those that the user chose by ``logger=``."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from lrm_lightning.errors import UserError, text_of
from lrm_lightning.runs import identity, provenance
from lrm_lightning.runs.directory import CONFIG, METRICS, checkpoint_path
from lrm_lightning.runs.settings import read_settings
from lrm_lightning.tracking.metrics_csv import MetricsCSV
from lrm_lightning.tracking.wandb import RunLogger

WANDB = f"{RunLogger.__module__}.{RunLogger.__qualname__}"
WHERE = ("entity", "project", "mode")  # all that is taken of a file, which may be a stranger's
EXTRAS = ("tensorboard", "mlflow")  # of pyproject.toml


@contextmanager
def open_loggers(cfg: DictConfig, run_dir: Path) -> Iterator[list[Logger]]:
    """The loggers for a Trainer, which have been told the configuration.

    ``cfg.logger`` maps a name to a node with ``_target_``, in whose texts ``{run_dir}`` is the run
    directory.

    Raises:
        UserError: If a logger can't be made, such as for a package that is missing.
    """
    code = {"versions": provenance.versions(), "git": provenance.git_state()}
    loggers: list[Logger] = [MetricsCSV(run_dir / METRICS)]
    failed, hook = True, threading.excepthook

    def quiet(found: threading.ExceptHookArgs) -> None:
        if not isinstance(found.exc_value, OSError):
            hook(found)

    # TensorBoard writes in a thread of its own, and raises a full disk in this one later.
    threading.excepthook = quiet
    try:
        for logger in _build(cfg, run_dir, config=identity.numeric(identity.plain(cfg)) | code):
            loggers.append(logger)  # noqa: PERF402 (if the next can't be made, this one is closed)
        yield loggers
        failed = False
    finally:
        weights = checkpoint_path(run_dir, cfg.checkpoint.select)
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.close(failed=failed, weights=weights)
        threading.excepthook = hook


def check_loggers(cfg: DictConfig, only: str = WANDB) -> None:
    """Raise the error that :func:`open_loggers` would, of W&B's settings or of all loggers.

    Others than W&B's may call their server as soon as they are made.
    """
    with TemporaryDirectory() as scratch:
        list(_build(cfg, Path(scratch), only=only))


def upload_rest(cfg: DictConfig, run_dir: Path, results: dict[str, float]) -> None:
    """Upload what W&B lacks of a finished run; see :meth:`RunLogger.upload_rest`."""
    for logger in _build(cfg, run_dir, only=WANDB):
        logger.upload_rest(results)


def add_evaluation(run_dir: Path, suite: str, metrics: Mapping[str, float]) -> None:
    """Put what an evaluation found into the summary of a run's W&B run."""
    found: dict[str, Any] = {}
    with suppress(FileNotFoundError):  # of an export
        found = identity.flat(read_settings(run_dir / CONFIG)["config"])
    told = {key: found[name] for key in WHERE if (name := f"logger.wandb.{key}") in found}
    try:
        logger = RunLogger(str(run_dir), **told)
    except Exception as error:  # of W&B's
        raise UserError(f"{run_dir / CONFIG}: logger.wandb: {error}") from error
    logger.add_results({f"eval/{suite}/{name}": share for name, share in metrics.items()})


def _build(
    cfg: DictConfig, run_dir: Path, *, config: dict[str, Any] | None = None, only: str = ""
) -> Iterator[Any]:
    for name, node in cfg.logger.items():
        try:
            if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
                raise ValueError("must be a mapping with _target_, the name of a class")
            settings: Any = OmegaConf.to_container(node, resolve=True)
            for key, value in settings.items():
                if isinstance(value, str):
                    settings[key] = value.replace("{run_dir}", str(run_dir))
            if only not in ("", settings["_target_"]):
                continue
            logger = instantiate(settings, _convert_="all")
            if config is not None:
                logger.log_hyperparams(config)
        except UserError:
            raise
        except Exception as error:  # of whatever package the logger is
            cause = error.__cause__ or error  # Hydra's own tells of it at length
            if isinstance(cause, ModuleNotFoundError) and name in EXTRAS:
                cause = f"it is not installed; pip install 'lrm_lightning[{name}]'"
            raise UserError(f"logger.{name}: {text_of(cause)}") from error
        yield logger
