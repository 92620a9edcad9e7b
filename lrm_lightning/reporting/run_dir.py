"""What a run's directory tells besides its record: its curves, and the command that made it."""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import yaml

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.metrics import pgd_steps
from lrm_lightning.runs.directory import METRICS
from lrm_lightning.runs.records import RunRecord, check_file, one_line

# Of the command line's settings of Hydra, those that a single run in a given directory replaces.
NOT_REPEATED = re.compile(
    r"[+~]*(rerun=|hydra[./](sweeper|launcher|sweep|mode|run|job\.(num|id))\b)"
)
VALIDATION = "val/acc/"  # begins the names of accuracies on validation images
Points: TypeAlias = list[tuple[float, float]]


def training_curves(run_dir: Path, record: RunRecord | None = None) -> dict[str, Points]:
    """Every metric in a run's ``metrics.csv`` as ``(epoch, mean value)`` by rising epoch.

    Epochs are counted from 1: what is logged in the first stands at 1. Empty if there is no file.
    The ``record`` is a finished run's.

    Raises:
        UserError: If the file can't be read, or is not as the run left it.
    """
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    path = run_dir / METRICS
    try:
        if record is not None:
            check_file(path, record)
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                epoch = row.pop("epoch", None)
                for name, text in row.items():
                    # Most cells are empty: a row is what one hook logged.
                    if epoch and text and name != "step" and math.isfinite(float(text)):
                        curves[name][float(epoch) + 1].append(float(text))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return {
        name: sorted((epoch, fmean(values)) for epoch, values in points.items())
        for name, points in curves.items()
    }


def strongest(curves: Mapping[str, Points]) -> str:
    """The name of the validation accuracy under PGD with the most steps; empty if there is none."""
    steps = [pgd_steps(name.removeprefix(VALIDATION)) or 0 for name in curves]
    return f"{VALIDATION}pgd{max(steps)}" if any(steps) else ""


def command_line(run_dir: Path) -> list[str]:
    """What the command line that trained a run said, which Hydra keeps in the run's directory.

    The primary YAML file, settings of Hydra's own and overrides; ``rerun=`` is left out, and what a
    sweep gives its jobs. Empty if the directory does not tell.
    """
    given = _hydras(run_dir, "overrides.yaml", list)
    hydra = _hydras(run_dir, "hydra.yaml", lambda content: _options(content["hydra"]))
    words = [one_line(each) for each in (*hydra, *given) if not NOT_REPEATED.match(each)]
    # The primary file, and a search, may say that there are several runs.
    several = any(each.startswith(("--config-name=", "hparams_search=")) for each in words)
    return words + ["hydra.mode=RUN"] * several


def experiment(run_dir: Path) -> list[str]:
    """The override of the experiment that a sweep's YAML chose for a run; empty if none did."""
    given = _hydras(run_dir, "overrides.yaml", list)
    if any(each.startswith("experiment=") for each in given):
        return []
    chosen = _hydras(
        run_dir,
        "hydra.yaml",
        lambda content: [content["hydra"]["runtime"]["choices"]["experiment"]],
    )
    return [f"experiment={one_line(each)}" for each in chosen]


def _hydras(run_dir: Path, name: str, read: Callable[[Any], list[str]]) -> list[str]:
    try:
        content = yaml.safe_load((run_dir / ".hydra" / name).read_text(encoding="utf-8"))
        return [each for each in read(content) if isinstance(each, str)]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
        return []


def _options(hydra: Mapping[str, Any]) -> list[str]:
    """What a command line said to Hydra: the primary file, and settings of Hydra's own."""
    sources, name = hydra["runtime"]["config_sources"], hydra["job"]["config_name"]
    words = [
        f"--config-dir={each['path']}" for each in sources if each["provider"] == "command-line"
    ]
    words += [] if name == "config" else [f"--config-name={name}"]
    return words + hydra["overrides"]["hydra"]
