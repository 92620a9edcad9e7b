"""Training curves, from the CSV file in a run directory."""

import csv
import math
from pathlib import Path
from statistics import fmean

from lrm_lightning.runs.directory import METRICS

Points = list[tuple[float, float]]


def training_curves(run_dir: Path) -> dict[str, Points]:
    """Every logged metric against the epoch.

    Args:
        run_dir: A run directory.

    Returns:
        Name to ``(epoch, value)`` by rising epoch, counted from 1: what is logged in the first
        epoch stands at 1. Of several values in an epoch the mean. Empty if there is no readable
        file.
    """
    curves: dict[str, dict[float, list[float]]] = {}
    try:
        with (run_dir / METRICS).open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                epoch = _number(row.get("epoch"))
                for name, text in row.items():
                    value = _number(text)
                    if epoch is not None and value is not None and name not in ("epoch", "step"):
                        curves.setdefault(str(name), {}).setdefault(epoch + 1, []).append(value)
    except (OSError, ValueError, csv.Error):
        return {}
    return {
        name: sorted((epoch, fmean(values)) for epoch, values in points.items())
        for name, points in curves.items()
    }


def largest_pgd(curves: dict[str, Points]) -> str | None:
    """The validation metric of PGD with the most steps; ``None`` if there is none."""
    prefix = "val/acc/pgd"
    steps = [
        int(name[len(prefix) :])
        for name in curves
        if name.startswith(prefix) and name[len(prefix) :].isdigit()
    ]
    return f"{prefix}{max(steps)}" if steps else None


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
