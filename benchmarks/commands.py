"""What surrounds the attacks: the Trainer, a sweep, and starting a command."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.same_work import DifferentWorkError, check_runs
from benchmarks.subject import Settings, Subject
from benchmarks.timing import Result, interleaved
from lrm_lightning.methods import Defense
from lrm_lightning.runs.identity import conf_dir
from lrm_lightning.training import build
from lrm_lightning.training.progress import Progress

TRAIN = (sys.executable, "-m", "lrm_lightning.train")
# One epoch of the demo and its test, shortened: about half of it is start-up.
SHORT = (
    "experiment=demo",
    "method=pgd",
    "trainer.max_epochs=1",
    "robust_accuracy.test_n_images=100",
)
SWEEP_ROUNDS = 2  # minutes each
LONGEST = 300.0


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


def sweep(subject: Subject, settings: Settings) -> list[Result]:
    """A sweep of short runs through our launcher, against the same runs one after another.

    The launcher shares out the cores; a command alone has all of them, as a user's would.
    """
    common = (*SHORT, f"trainer={'cpu' if settings.device == 'cpu' else 'gpu'}")

    def swept() -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            seeds = ",".join(map(str, range(settings.runs)))
            cores = f"hydra.launcher.cores={settings.threads}"
            _run([*TRAIN, "-m", *common, f"seed={seeds}", cores, f"runs_dir={folder}"], settings)
            return _records(Path(folder))

    def in_turn(seeds: Sequence[int], threads: int) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            for seed in seeds:
                command = [*TRAIN, *common, f"seed={seed}", f"runs_dir={folder}"]
                _run(command, settings, threads=threads)
            return _records(Path(folder))

    alone = partial(in_turn, range(settings.runs), settings.threads)
    contestants = {"launcher": swept, "separate commands": alone}
    seconds, records = interleaved(contestants, min(settings.rounds, SWEEP_ROUNDS))
    ours, theirs = records.values()
    check_runs(ours, theirs)
    threads = ours[0]["hardware"]["threads"]
    if threads != theirs[0]["hardware"]["threads"]:
        # Not timed: with a job's threads, a command of its own has to give exactly what the job
        # gave. Then it is certain that the launcher changes nothing else.
        check_runs(ours[:1], in_turn([0], threads))
    steps, images = ours[0]["global_step"], ours[0]["n"]
    title = f"sweep of {settings.runs} runs, {steps} training steps and {images} test images each"
    return [Result(title, seconds, details={"threads": threads})]


def startup(subject: Subject, settings: Settings) -> list[Result]:
    """Fresh processes, beside the imports that no training gets below."""

    def python(statement: str) -> None:
        _run([sys.executable, "-c", statement], settings)

    imports = ("import torch", "import torch, lightning, hydra")
    contestants = {
        "train --help": partial(_run, [*TRAIN, "--help"], settings),
        "train up to its first step": partial(_first_step, settings),
        **{statement: partial(python, statement) for statement in imports},
    }
    for name in ("train --help", imports[1]):  # the files are in memory then
        contestants[name]()
    seconds, _ = interleaved(contestants, settings.rounds)
    names = list(seconds)
    pairs = {"start-up: help": (names[0], names[2]), "start-up: training": (names[1], names[3])}
    return [Result(title, {name: seconds[name] for name in pair}) for title, pair in pairs.items()]


def _first_step(settings: Settings) -> None:
    """Wait until a run writes its first status, which it does right before its first step."""
    trainer = "cpu" if settings.device == "cpu" else "gpu"
    with tempfile.TemporaryDirectory() as folder:
        command = [*TRAIN, *SHORT, f"trainer={trainer}", f"runs_dir={folder}"]
        process = subprocess.Popen(
            command,
            env=_environment(settings.threads),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + LONGEST
            while not any(Path(folder).rglob("status.json")):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{' '.join(command)} did not get to its first step")
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()


def _run(command: Sequence[str], settings: Settings, *, threads: int | None = None) -> None:
    done = subprocess.run(
        command,
        env=_environment(threads or settings.threads),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stdout[-1000:]}")


def _environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


def _records(folder: Path) -> list[dict[str, Any]]:
    """By seed."""
    found = [json.loads(path.read_text()) for path in folder.rglob("record.json")]
    return sorted(found, key=lambda record: record["seed"])
