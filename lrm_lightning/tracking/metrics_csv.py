"""All metrics of a run in one CSV file that survives interruptions."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import write_text

# Lightning asks to save at every logged step; a long run would rewrite its file for nothing.
SECONDS_BETWEEN_SAVES = 10.0
METRICS = "metrics"  # in checkpoints


class MetricsCSV(Logger):
    """Writes ``metrics.csv``: a row a step, a column a metric.

    Lightning's own CSVLogger deletes the file when a run is resumed. This one goes on where
    :class:`MetricsInCheckpoints` tells it to, whatever has become of the file.
    """

    name, version = "csv", ""  # type: ignore[assignment] (Lightning has properties)

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._rows: dict[int, dict[str, str]] = {}
        self._saved_at = 0.0

    @property
    def text(self) -> str:
        """What has been logged, as CSV; empty if nothing has."""
        if not self._rows:
            return ""
        columns = sorted({key for row in self._rows.values() for key in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **self._rows[step]} for step in sorted(self._rows))
        return text.getvalue()

    def go_on(self, text: str | None) -> None:
        """Have logged what ``text`` says; ``None``: what the file says.

        Raises:
            UserError: If it can't be read.
        """
        try:
            text = self._path.read_text(encoding="utf-8") if text is None else text
            for row in csv.DictReader(io.StringIO(text)):
                step = int(row.pop("step"))
                self.log_metrics({key: float(each) for key, each in row.items() if each}, step)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(
                f"{self._path} is damaged ({error}); start the run again with rerun=true"
            ) from error

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        pass  # the resolved configuration lies beside the file

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = self._rows.setdefault(step or 0, {})
        row.update({key: repr(float(value)) for key, value in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN_SAVES:
            self.finalize("")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._rows:
            write_text(self._path, self.text)
            self._saved_at = time.monotonic()


class MetricsInCheckpoints(Callback):
    """Keeps what a :class:`MetricsCSV` has logged in every checkpoint, and goes on with that.

    What was logged later is logged again; a file that is older, cut or damaged does no harm.
    """

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                checkpoint[METRICS] = logger.text
                logger.finalize("")  # who reads the file after a kill sees what is gone on from

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV) and trainer.state.fn == TrainerFn.FITTING:
                logger.go_on(checkpoint.get(METRICS))  # version 0.1 kept none
