"""Weights & Biases: one run a run directory, online with a key, offline without."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lrm_lightning.tracking.metrics_csv import MetricsCSV
from lrm_lightning.tracking.wandb_client import Client, choose_mode, in_sweep, table
from lrm_lightning.tracking.wandb_journal import EXAMPLES, MEDIA, Journal, numbered


class RunLogger(WandbLogger):
    """Lightning's logger, made so that W&B misses nothing and training does not wait for it.

    Every row is in the run directory before W&B is told. Whenever the run is opened, after a kill
    or an outage, W&B is told what it misses; what it has is not told again. An outage amid training
    is a matter of W&B's own process. One at the start costs ten seconds: the run is offline then,
    with another attempt at its end, and whenever the command is given again.

    Args:
        client: W&B's run.
        journal: What was logged so far.
        mode: ``"online"`` or ``"offline"``.
    """

    def __init__(self, client: Client, journal: Journal, mode: str) -> None:
        super().__init__(save_dir=str(client.run_dir))
        self._client = client
        self._journal = journal
        self._wanted = mode
        self._checkpoint: Path | None = None
        if rank_zero_only.rank == 0:
            self._open()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Tell W&B, unless it has those rows."""
        for number, row in numbered(step or 0, metrics):
            self._log(number, row)

    @rank_zero_only
    def log_media(self, metrics: Mapping[str, Any], step: int) -> None:
        """Keep, and tell W&B, what is for W&B alone.

        Args:
            metrics: Numbers, and histograms as ``{"counts": [...], "edges": [...]}``.
            step: The optimizer's step.
        """
        self._journal.add_media(step, metrics)
        for number, row in numbered(step, metrics, MEDIA):
            self._log(number, row)

    @rank_zero_only
    def keep_examples(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
        """Keep adversarial examples for :meth:`publish`; see :func:`wandb_client.table`."""
        self._journal.keep_examples(step, arrays)

    @rank_zero_only
    def publish(self, checkpoint: Path | None) -> None:
        """Log the table of examples and the weights: W&B may let us wait, training is over.

        Args:
            checkpoint: Weights to keep as an artifact; ``None`` for none.
        """
        self._checkpoint = checkpoint
        examples = self._journal.examples()
        try:
            if examples is not None:
                shown = {"test/examples": table(examples)}
                for number, row in numbered(int(examples["step"]), shown, EXAMPLES):
                    self._log(number, row)
            if checkpoint is not None:
                self._client.log_checkpoint(checkpoint)
        except Exception:  # as in _log
            self._complete = False

    @rank_zero_only
    def close(self, *, failed: bool = False) -> None:
        """End W&B's run, in a time that is bounded.

        Args:
            failed: An exception ended the run: W&B shows that, and nothing is tried again.
        """
        folder = self._client.folder
        complete = self._client.finish(int(failed)) and self._complete
        if self._wanted == "offline" and complete:
            self._journal.supersede_offline_files(but=folder)
        if self._wanted != "online" or failed:
            return
        if not (self._online and complete) and self._connect() is None:
            self._online = True
            self._catch_up()
            self.publish(self._checkpoint)
            complete = self._client.finish() and self._complete
        if self._online and complete:
            self._journal.supersede_offline_files()
            self._journal.pending = False
        else:
            print("W&B: not all is uploaded; the same command, given again, does it")  # noqa: T201

    # ------------------------------------------------------------------ W&B has what we have

    def _open(self) -> None:
        problem = None
        if self._wanted == "online":
            self._journal.pending = True
            problem = self._connect()
            if problem:
                print(f"W&B: offline, with another attempt at the end ({problem})")  # noqa: T201
        self._online = self._wanted == "online" and not problem
        if not self._online:
            self._client.open_offline()
        self._catch_up()

    def _connect(self) -> str | None:
        problem = self._client.connect()
        if problem or in_sweep() or self._journal.run_id:
            return problem
        if self._client.first_number:
            # Another directory's training of this configuration; W&B would mix it with ours.
            self._client.finish()
            self._client.settings |= {"id": _another(self._client.settings["id"])}
            problem = self._client.connect()
        self._journal.run_id = self._client.settings["id"]
        return problem

    def _catch_up(self) -> None:
        """Tell W&B what was logged before it was opened and it misses."""
        self._experiment = self._client.run
        self._complete = True
        self._best: dict[str, float] = {}
        self._number = self._from = self._client.first_number
        rows = self._journal.rows()
        for number, row in rows:
            self._log(number, row)
        if rows:  # training that goes on from a checkpoint logs the last of them again
            self._from = max(self._from, rows[-1][0] + 1)

    def _log(self, number: int, row: dict[str, Any]) -> None:
        if not self._complete:
            return
        try:
            self._summarise(row)
            if number >= self._from:
                self._number = max(self._number, number)
                self._client.log(row, self._number)
        except Exception:  # wandb's own have no common class; close() tries again
            self._complete = False

    def _summarise(self, row: Mapping[str, Any]) -> None:
        # W&B's own maximum forgets what was before the run was resumed.
        better = {
            f"best/{key}": value
            for key, value in row.items()
            if key.startswith("val/acc/") and value >= self._best.get(f"best/{key}", 0.0)
        }
        if better:
            self._best |= better
            self._client.summarise(better)


def wandb_logger(
    cfg: DictConfig, run_dir: Path, config: dict[str, Any], run_id: str, metrics: MetricsCSV
) -> RunLogger | None:
    """A logger that never asks a question; ``None`` where none is wanted.

    The run's id is that of its configuration, so a resumed run goes on in the same W&B run. In a
    process that ``wandb agent`` has started it is the agent's run.

    Args:
        cfg: The composed configuration; ``cfg.logger`` says where to.
        run_dir: The run directory; W&B's files go to ``wandb/`` in it.
        config: The resolved configuration and the code's version, shown in W&B.
        run_id: Name of the configuration.
        metrics: The metrics' file.

    Raises:
        UserError: If ``logger.mode=online`` and there is no key.
    """
    if not cfg.logger.wandb:
        return None
    mode, reason = choose_mode(cfg.logger.mode) if rank_zero_only.rank == 0 else ("offline", "")
    if mode == "disabled":
        return None
    if mode == "offline":
        _say_offline(run_dir, reason)
    (run_dir / "wandb").mkdir(exist_ok=True)
    journal = Journal(run_dir, metrics)
    if cfg.rerun and journal.run_id is None and rank_zero_only.rank == 0:
        journal.run_id = _another(run_id)
    settings = {
        "id": journal.run_id or run_id,
        "name": f"{cfg.method.name}-{run_id}",
        "project": cfg.logger.project,
        "entity": cfg.logger.entity,
        "group": cfg.sweep,
        "job_type": cfg.method.name,
        "tags": [*cfg.logger.tags, cfg.data.name],
        "config": config,
    }
    client = Client(run_dir, settings, weights=bool(cfg.logger.get("checkpoint")))
    return RunLogger(client, journal, mode)


def uploads_rest(
    cfg: DictConfig, run_dir: Path, config: dict[str, Any], run_id: str, metrics: MetricsCSV
) -> RunLogger | None:
    """:func:`wandb_logger` for a finished run of which W&B misses something; else ``None``."""
    wanted = cfg.logger.wandb and cfg.logger.mode in ("auto", "online")
    missing = wanted and (in_sweep() or Journal(run_dir, metrics).pending)
    if not missing or rank_zero_only.rank != 0 or choose_mode(cfg.logger.mode)[0] != "online":
        return None
    return wandb_logger(cfg, run_dir, config, run_id, metrics)


@rank_zero_only
def _say_offline(run_dir: Path, reason: str) -> None:
    upload = f"wandb sync {run_dir}/wandb/offline-run-*"
    print(f"W&B: offline ({reason}); `{upload}` uploads this run")  # noqa: T201


def _another(run_id: str) -> str:
    return f"{run_id[:8]}-{int(time.time()):x}"
