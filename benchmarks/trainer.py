"""Steps in a Trainer, with our callbacks and logging, against a bare loop of the same steps."""

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

from benchmarks.same_work import DifferentWorkError
from benchmarks.subject import Settings, Subject
from benchmarks.timing import Result
from lrm_lightning.methods import Defense
from lrm_lightning.runs.identity import conf_dir
from lrm_lightning.training import build
from lrm_lightning.training.progress import Progress


def trainer(subject: Subject, settings: Settings) -> list[Result]:
    """Steps in a Trainer with our callbacks and logging, against a bare loop of the same steps.

    Start, validation and the last checkpoint are left out: validation costs the same in either.
    """
    overrides = [
        "data=digits",
        "method=pgd",
        f"model={settings.model}",
        f"trainer={'cpu' if settings.device == 'cpu' else 'gpu'}",
        "logger=csv",
        "trainer.max_epochs=1",
        # Small: what the Trainer adds to a step counts for more, and there are more steps.
        f"data.batch_size={min(32, settings.batch)}",
        f"trainer.limit_train_batches={settings.trainer_steps}",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    inside: dict[str, list[float]] = {"Trainer": [], "bare loop": []}
    losses = {}
    for _ in range(settings.rounds):
        for name, run in (("Trainer", _trained), ("bare loop", _bare)):
            seconds, losses[name] = run(cfg, settings)
            inside[name].append(seconds)
    if abs(losses["Trainer"] - losses["bare loop"]) > 0.02 * abs(losses["bare loop"]):
        raise DifferentWorkError(f"the two loops end with other losses: {losses}")
    images = settings.trainer_steps * int(cfg.data.batch_size)
    title = f"{settings.trainer_steps} training steps, PGD-{cfg.attack.steps}"
    return [Result(title, inside, images, details={"loss": losses})]


class _Clock(L.Callback):
    """Times the steps from the first batch to the last."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.loss = float(trainer.callback_metrics["train/loss"])
        self.seconds = time.perf_counter() - self._begin


def _parts(cfg: DictConfig) -> tuple[Any, Defense]:
    torch.manual_seed(0)
    datamodule = build.build_datamodule(cfg)
    network = build.build_network(cfg, datamodule.num_classes)
    return datamodule, build.build_defense(cfg, network, datamodule.num_classes)


def _trained(cfg: DictConfig, settings: Settings) -> tuple[float, float]:
    datamodule, defense = _parts(cfg)
    clock = _Clock()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(action="ignore"),
        redirect_stdout(StringIO()),
    ):
        callbacks = [clock, build.build_robust_accuracy(cfg), Progress(Path(folder))]
        fitted = L.Trainer(
            accelerator="cpu" if settings.device == "cpu" else "gpu",
            devices=1,
            max_epochs=1,
            limit_train_batches=settings.trainer_steps,
            limit_val_batches=0,
            callbacks=callbacks,
            default_root_dir=folder,
            inference_mode=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        fitted.fit(defense, datamodule=datamodule)
    return clock.seconds, clock.loss


def _bare(cfg: DictConfig, settings: Settings) -> tuple[float, float]:
    datamodule, defense = _parts(cfg)
    datamodule.setup()
    defense.to(settings.device).train()
    optimizer = defense.optimizer(defense.network.parameters())
    schedule = defense.scheduler(optimizer, epochs=1, steps_per_epoch=settings.trainer_steps)
    loader = datamodule.train_dataloader()
    loss = torch.zeros(())
    begin = time.perf_counter()
    for batch, _ in zip(loader, range(settings.trainer_steps), strict=False):
        moved = batch._replace(
            x=batch.x.to(settings.device), targets=batch.targets.to(settings.device)
        )
        loss = torch.stack(list(defense.loss_terms(moved).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    value = float(loss.detach())  # waits for the device
    return time.perf_counter() - begin, value
