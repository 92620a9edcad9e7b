"""All metrics of a run in one CSV file that survives interruptions."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import write_text

# Lightning asks to save at every logged step; a long run would rewrite its file for nothing.
SECONDS_BETWEEN_SAVES = 10.0


class MetricsCSV(Logger):
    """Writes ``metrics.csv``: a row a step, a column a metric.

    Lightning's own CSVLogger deletes the file when a run is resumed. This one keeps it, and what is
    logged again after a resume replaces what the interrupted run had logged at those steps.

    Args:
        path: The file.

    Raises:
        UserError: If there is such a file and it can't be read.
    """

    name, version = "csv", ""  # type: ignore[assignment] (Lightning has properties)

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._rows: dict[int, dict[str, str]] = {}
        self._saved_at = 0.0
        if not path.exists():
            return
        try:
            with path.open(newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    step = int(row.pop("step"))
                    self.log_metrics({key: float(each) for key, each in row.items() if each}, step)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(
                f"{path} is damaged ({error}); delete it and start the run again"
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
        if not self._rows:
            return
        columns = sorted({key for row in self._rows.values() for key in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **self._rows[step]} for step in sorted(self._rows))
        write_text(self._path, text.getvalue())
        self._saved_at = time.monotonic()


class SavedBeforeCheckpoints(Callback):
    """Writes the metrics before every checkpoint: a run that resumes there logs none again."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.finalize("")
