"""The order of one run: build, fit, test, record."""

import os
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import ImageDataModule
from lrm_lightning.data.official import OfficialDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.tables import print_runs
from lrm_lightning.methods import Defense, PGDTraining
from lrm_lightning.runs import identity, provenance
from lrm_lightning.runs.directory import (
    BEST,
    CORRECT,
    LAST,
    METRICS,
    PREVIOUS,
    RECORD,
    RunDir,
    checkpoint_path,
    finished_run,
)
from lrm_lightning.runs.files import file_sha256, shown_path, write_arrays
from lrm_lightning.runs.networks import load_model, weights_sha256
from lrm_lightning.runs.records import RunRecord, accuracies, write_record
from lrm_lightning.tracking.loggers import check_loggers, open_loggers, upload_rest
from lrm_lightning.tracking.metrics_csv import MetricsInCheckpoints
from lrm_lightning.tracking.wandb import WandbMedia
from lrm_lightning.training import build
from lrm_lightning.training.batch_norm_sync import BatchNormSync
from lrm_lightning.training.checkpoints import (
    RunCheckpointIO,
    extend,
    newest_usable,
    run_checkpoints,
)
from lrm_lightning.training.failures import in_one_line
from lrm_lightning.training.initial_weights import InitialWeights
from lrm_lightning.training.interruption import Interruption
from lrm_lightning.training.lightning_internals import count_last_epoch, quieten
from lrm_lightning.training.progress import Progress
from lrm_lightning.training.robust_accuracy import RobustAccuracy
from lrm_lightning.training.sources import Sources


def train(cfg: DictConfig, path: Path, *, wait: bool = False) -> float | None:
    """Train, test and record one run; go on if it was interrupted, skip it if it is finished.

    Args:
        cfg: The composed configuration.
        path: The run directory.
        wait: Whether to wait for another process that trains in ``path``, instead of raising.

    Returns:
        Robust accuracy on the validation split after training, in [0, 1], for Hydra's sweepers;
        None if ``data.val_size=0`` holds none out.

    Raises:
        UserError: For whatever the user can mend.
    """
    quieten()
    build.validate(cfg)
    run_dir = RunDir(path, identity.identity(cfg))
    start, sources = InitialWeights(cfg.init_from), Sources(build.sources(cfg))
    record = None if cfg.rerun else finished_run(path)
    if record is not None:
        start.load_state_dict(record.init_from)
        _refuse_other_data(cfg, record)
        print(f"already finished (rerun=true trains it again): {path}")  # noqa: T201
        sources.compare(record.sources, "rerun=true trains with what there is now")
        print_runs([("", record, path)])
        upload_rest(cfg, path, record.val_metrics | record.test_metrics)
        return record.score

    torch.manual_seed(cfg.seed)
    datamodule = build.build_datamodule(cfg)
    shape = datamodule.num_classes, datamodule.in_channels
    network = build.build_network(cfg, *shape)
    datamodule.setup()
    build.check_network(network, datamodule)
    defense = build.build_defense(cfg, network, datamodule.num_classes)
    attacker = build.build_robust_accuracy(cfg)
    _say_what_falls_short(cfg, defense, attacker)
    progress, interruption = Progress(path, attacker), Interruption()
    callbacks = [attacker, progress, interruption, start, sources, WandbMedia(attacker)]
    trainer = build_trainer(cfg, run_dir, callbacks, validates=datamodule.val_size > 0)
    with run_dir.locked(wait=wait) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            print(f"run directory: {shown_path(path)}", flush=True)  # noqa: T201
            if cfg.rerun:
                # What would refuse the run does so before anything is deleted.
                check_loggers(cfg, only="")
                start.load(network)
                run_dir.clear()
            plain = identity.plain(cfg)
            run_dir.write_config(plain, plain["model"] | build.of_data(cfg, *shape))
        with open_loggers(cfg, path) as trainer.loggers:
            with in_one_line(trainer), interruption.around():
                # Another process may not have cleared the directory yet.
                begun = [] if cfg.rerun else run_dir.resumable()
                if cfg.extend is not None and not begun:
                    # Every process does it, as no other may have done it by now.
                    extend(Path(str(cfg.extend)), cfg, run_dir, defense)
                    begun = run_dir.resumable()
                files = trainer.strategy.checkpoint_io
                assert isinstance(files, RunCheckpointIO)
                checkpoint = newest_usable(begun, files, defense)
                if checkpoint is None:
                    start.load(network)
                trainer.fit(defense, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
                count_last_epoch(trainer)
                if cfg.checkpoint.select == BEST:
                    best = newest_usable([checkpoint_path(path, BEST)], files, defense)
                    if best is None:
                        raise UserError(f"{path} has lost its best weights; add rerun=true")
                    # Lightning would give every callback the state that it had then.
                    saved = files.load_checkpoint(best)
                    defense.load_state_dict(saved["state_dict"])
                    attacker.load_state_dict(saved["callbacks"][attacker.state_key])
                trainer.test(defense, datamodule=datamodule, verbose=False)
            record = record_of(
                cfg, trainer, defense, datamodule, attacker, progress, start, sources
            )
            if trainer.is_global_zero:
                write_arrays(path / CORRECT, {"index": attacker.index} | attacker.correct)
                hashes = {name: file_sha256(path / name) for name in (CORRECT, METRICS)}
                checkpoint_path(path, PREVIOUS).unlink(missing_ok=True)
                # Last: its presence says that the run is finished.
                found = {"files": hashes, "weights": _weights(cfg, path, *shape)}
                write_record(path / RECORD, record.model_copy(update=found))
                print_runs([("", record, path)])
    return record.score


def _weights(cfg: DictConfig, path: Path, *shape: int) -> dict[str, str]:
    """The hash of each checkpoint's weights, in the type that evaluate loads them in."""
    return {
        name: weights_sha256(
            load_model(path, checkpoint=name, network=build.build_network(cfg, *shape))
        )
        for name in (LAST, BEST)
        if checkpoint_path(path, name).exists()
    }


@rank_zero_only
def _say_what_falls_short(cfg: DictConfig, defense: Defense, attacker: RobustAccuracy) -> None:
    """Say which of the run's searches are shorter than their radius: they look robust easily."""
    counts = [*cfg.robust_accuracy.steps, *cfg.robust_accuracy.test_steps]
    searches = {"robust_accuracy": (attacker.attack, counts)}
    if isinstance(defense, PGDTraining) and isinstance(defense.attack, PGDAttack):
        searches["attack"] = (defense.attack, [defense.attack.steps])
    for name, (attack, steps) in searches.items():
        if line := attack.falls_short(steps):
            print(f"warning: {name}: {line}")  # noqa: T201


def _refuse_other_data(cfg: DictConfig, record: RunRecord) -> None:
    """Read the data, if it may be other data than a finished run's: only the bytes tell."""
    datamodule = build.build_datamodule(cfg)
    checked = isinstance(datamodule, OfficialDataModule) and cfg.data.get("require_official", True)
    if record.data.official and checked:
        return
    datamodule.setup()
    datamodule.load_state_dict({"fingerprint": record.data.fingerprint})


def build_trainer(
    cfg: DictConfig, run_dir: RunDir, callbacks: list[Callback], *, validates: bool
) -> L.Trainer:
    """The Trainer that ``cfg.trainer`` describes, with what every run has but its loggers.

    Args:
        cfg: The composed configuration.
        run_dir: Where checkpoints go.
        callbacks: To which the user's own and those that save are added.
        validates: Whether there are validation images.

    Raises:
        UserError: If Lightning refuses a value, the device can't be used, torchrun started more
            processes than the run has, or they can't share a batch.
    """
    checkpoints = run_checkpoints(
        run_dir.checkpoints,
        every_minutes=cfg.checkpoint.every_minutes,
        best_by=cfg.checkpoint.monitor if cfg.checkpoint.select == "best" else None,
    )
    own, files = build.build_callbacks(cfg), RunCheckpointIO(run_dir.run_id)
    # Synchronised batch norm records the same on every rank: rank 0 need not send it at each step.
    same_buffers = cfg.trainer.sync_batchnorm and cfg.trainer.strategy == "ddp"
    trainer = build.build_trainer(
        cfg,
        # Lightning would warn that there are no validation images.
        **({} if validates else {"limit_val_batches": 0}),
        **({"strategy": DDPStrategy(broadcast_buffers=False)} if same_buffers else {}),
        # Lightning's own flag insists on torch's version, which is for GPUs alone.
        sync_batchnorm=False,
        plugins=[files, BatchNormSync()] if cfg.trainer.sync_batchnorm else [files],
        logger=False,
        callbacks=[*callbacks, *own, MetricsInCheckpoints(), *checkpoints],
        default_root_dir=str(run_dir.path),
        inference_mode=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(each, ProgressBar) for each in own),
    )
    started = os.environ.get("WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    if started not in (None, str(trainer.world_size)):
        raise UserError(
            f"torchrun started {started} processes, but the run has {trainer.world_size};"
            f" give trainer=ddp trainer.devices=<processes a node>"
        )
    size = build.build_datamodule(cfg).batch_size
    if size % trainer.world_size:  # before anything is written, or another process started
        raise UserError(
            f"data.batch_size={size} is the global batch, so it must be a multiple of the"
            f" {trainer.world_size} processes that share it: change it, or trainer.devices"
        )
    provenance.check_device(trainer.strategy.root_device)
    # Until now it is what the environment says, where another program may have left it.
    rank_zero_only.rank = trainer.global_rank
    return trainer


def record_of(
    cfg: DictConfig,
    trainer: L.Trainer,
    defense: Defense,
    datamodule: ImageDataModule,
    attacker: RobustAccuracy,
    progress: Progress,
    start: InitialWeights,
    sources: Sources,
) -> RunRecord:
    """All that the run has found, and where it came from."""
    fields = {
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
        "sources": sources.sha256,
        **provenance.stamp(trainer.strategy.root_device, trainer.world_size),
        "epochs": trainer.current_epoch,
        "global_step": trainer.global_step,
        "score": attacker.val_metrics.get(f"val/acc/pgd{max(cfg.robust_accuracy.steps)}"),
        "val_metrics": attacker.val_metrics,
        "wall_s": round(progress.elapsed_s, 1),
        "peak_memory_bytes": provenance.peak_memory(trainer.strategy.root_device),
    }
    if progress.epoch_s is not None:
        fields["epoch_s"] = round(progress.epoch_s, 1)
    if start.state_dict():
        fields["init_from"] = start.state_dict()
    return RunRecord(**fields)
