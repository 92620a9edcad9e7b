"""Everything that a run tells W&B, kept in its directory: whatever W&B misses is told again."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrm_lightning.runs.files import write_text
from lrm_lightning.tracking.metrics_csv import MetricsCSV

# W&B takes rows with rising numbers and ignores those it has. Numbered by step and kind, a row has
# the same number whenever it is told: whatever was interrupted, it arrives once.
KINDS = TRAIN, VALIDATION, MEDIA, TEST, EXAMPLES = range(5)
X_AXIS = "trainer/global_step"

Row = tuple[int, dict[str, Any]]


def numbered(step: int, metrics: Mapping[str, Any], kind: int | None = None) -> list[Row]:
    """Rows for W&B, one a kind, with their numbers.

    Args:
        step: The optimizer's step.
        metrics: What was logged there; ``epoch`` goes with every row.
        kind: Of all of it; ``None`` tells training, validation and test apart by name.
    """
    parts: dict[int, dict[str, Any]] = {}
    for key, value in metrics.items():
        if key != "epoch":
            parts.setdefault(_kind(key) if kind is None else kind, {})[key] = value
    shared = {X_AXIS: step} | {key: value for key, value in metrics.items() if key == "epoch"}
    return [(step * len(KINDS) + each, parts[each] | shared) for each in sorted(parts)]


def _kind(key: str) -> int:
    return {"val": VALIDATION, "test": TEST}.get(key.partition("/")[0], TRAIN)


class Journal:
    """What was logged: in the metrics' file, and beside it what is for W&B alone.

    Args:
        run_dir: The run directory; it is kept in its ``wandb/``.
        metrics: The metrics' file.
    """

    def __init__(self, run_dir: Path, metrics: MetricsCSV) -> None:
        self._metrics = metrics
        self._folder = run_dir / "wandb"
        self._id = self._folder / "id"
        self._media = self._folder / "media.jsonl"
        self._examples = self._folder / "examples.npz"
        self._pending = self._folder / "pending"

    # ------------------------------------------------------------------ what was logged

    def rows(self) -> list[Row]:
        """All rows, in W&B's order."""
        rows: dict[int, dict[str, Any]] = {}
        for metrics in self._metrics.rows():
            rows |= numbered(int(metrics.pop("step")), metrics)
        for step, metrics in self._read_media():
            rows |= numbered(step, metrics, MEDIA)
        return sorted(rows.items())

    def add_media(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep what is not in the metrics' file; histograms are plain dicts."""
        with self._media.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")

    def _read_media(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if not self._media.exists():
            return
        for line in self._media.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # a line that a kill cut off
                continue
            yield entry["step"], entry["metrics"]

    def keep_examples(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep adversarial examples."""
        np.savez_compressed(self._examples, step=np.array(step), **dict(arrays))  # type: ignore[arg-type]

    def examples(self) -> dict[str, np.ndarray] | None:
        """The adversarial examples and their ``step``, if there are any yet."""
        if not self._examples.exists():
            return None
        with np.load(self._examples, allow_pickle=False) as file:
            return dict(file)

    # ------------------------------------------------------------------ what W&B has of it

    @property
    def run_id(self) -> str | None:
        """The id of this directory's W&B run; ``None`` before there is one."""
        return self._id.read_text(encoding="utf-8") if self._id.exists() else None

    @run_id.setter
    def run_id(self, value: str) -> None:
        write_text(self._id, value)

    @property
    def pending(self) -> bool:
        """Whether W&B should have all of it and may not have it yet."""
        return self._pending.exists()

    @pending.setter
    def pending(self, value: bool) -> None:
        if value:
            self._pending.touch()
        else:
            self._pending.unlink(missing_ok=True)

    def supersede_offline_files(self, but: Path | None = None) -> None:
        """Have ``wandb sync`` skip the offline files, all or but those in ``but``.

        What they hold is in W&B, or in ``but``, and would be there twice.
        """
        for file in self._folder.glob("offline-run-*/*.wandb"):
            if but is None or not file.parent.samefile(but):
                file.with_suffix(".wandb.synced").touch()
