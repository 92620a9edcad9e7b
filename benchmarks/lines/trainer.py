"""Line 5: our Trainer, with its callbacks and logging, against a bare loop of the same steps."""

import logging
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.result import Result
from benchmarks.same_work import DifferentWorkError
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import order
from lrm_lightning.methods import Defense
from lrm_lightning.runs import identity
from lrm_lightning.runs.directory import METRICS, RunDir
from lrm_lightning.tracking.metrics_csv import MetricsCSV
from lrm_lightning.training import build
from lrm_lightning.training.progress import Progress

OURS, BARE = "Trainer", "bare loop"


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """Seconds of the same training steps; start, validation and last checkpoint are left out.

    Validation is off, its attack with it: it costs the same in either loop.
    """
    cfg = _configuration(settings)
    runs = {OURS: _trained, BARE: _bare}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    losses = dict.fromkeys(runs, 0.0)
    for names in order(list(runs), settings.rounds):
        for name in names:
            taken, losses[name] = runs[name](cfg, settings)
            seconds[name].append(taken)
    if abs(losses[OURS] - losses[BARE]) > 0.02 * abs(losses[BARE]):
        raise DifferentWorkError(f"the two loops end with other losses: {losses}")
    images = settings.trainer_steps * int(cfg.data.batch_size)
    title = f"{settings.trainer_steps} training steps, PGD-{cfg.attack.steps}"
    return [Result(title, seconds, images, details={"loss": losses})]


def _configuration(settings: Settings) -> DictConfig:
    overrides = [
        "data=digits",
        "method=pgd",
        "engine=fast",
        f"model={settings.model}",
        f"trainer={'cpu' if settings.device == 'cpu' else 'gpu'}",
        "logger=csv",
        "trainer.max_epochs=1",
        # Small: what the Trainer adds to a step counts for more, and there are more steps.
        f"data.batch_size={min(32, settings.batch)}",
        f"trainer.limit_train_batches={settings.trainer_steps}",
        "trainer.limit_val_batches=0",
    ]
    with initialize_config_dir(str(identity.conf_dir()), version_base="1.3"):
        return compose("config", overrides=overrides)


def _parts(cfg: DictConfig) -> tuple[Any, Defense]:
    torch.manual_seed(0)
    datamodule = build.build_datamodule(cfg)
    network = build.build_network(cfg, datamodule.num_classes)
    return datamodule, build.build_defense(cfg, network, datamodule.num_classes)


class _Clock(L.Callback):
    """Times the steps from the first batch to the last."""

    seconds = 0.0
    loss = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.loss = float(trainer.callback_metrics["train/loss"])
        self.seconds = time.perf_counter() - self._begin


def _trained(cfg: DictConfig, settings: Settings) -> tuple[float, float]:
    from lrm_lightning.training.run import build_trainer

    datamodule, defense = _parts(cfg)
    clock = _Clock()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(action="ignore"),
        redirect_stdout(StringIO()),
    ):
        path = Path(folder)
        callbacks = [clock, build.build_robust_accuracy(cfg), Progress(path)]
        run_dir = RunDir(path, identity.identity(cfg))
        trainer = build_trainer(cfg, run_dir, callbacks, MetricsCSV(path / METRICS), None)
        trainer.fit(defense, datamodule=datamodule)
    return clock.seconds, clock.loss


def _bare(cfg: DictConfig, settings: Settings) -> tuple[float, float]:
    datamodule, defense = _parts(cfg)
    datamodule.setup()
    defense.to(settings.device).train()
    optimizer = defense.sgd.optimizer(defense.network)
    factor = defense.sgd.lr_factor(settings.trainer_steps, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    loader = datamodule.train_dataloader()
    begin = time.perf_counter()
    loss = torch.zeros(())
    for batch, _ in zip(loader, range(settings.trainer_steps), strict=False):
        x = batch.x.to(settings.device, memory_format=torch.channels_last)
        targets = batch.targets.to(settings.device)
        terms = defense.loss_terms(batch._replace(x=x, targets=targets))
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    value = float(loss.detach())  # waits for the device
    return time.perf_counter() - begin, value
