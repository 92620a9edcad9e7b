"""Draw the README's picture from the records in ``results/``: ``make picture``."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lrm_lightning.runs.records import EvaluationRecord, read_record

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/cifar10-jpeg-cpu"
PICTURE = ROOT / "docs/picture.svg"
TITLES = {
    "regular": "regular",
    "label_smoothing": "label\nsmoothing",
    "pgd": "PGD",
    "alp": "ALP",
    "lrm": "LRM",
}
# Suite, attack, legend, colour.
BARS = (
    ("paper", "clean", "natural", "#cbd5e1"),
    ("paper", "pgd20", "PGD-20, as papers report it", "#60a5fa"),
    ("strong", "autoattack", "AutoAttack", "#1e3a8a"),
)


def draw(path: Path) -> None:
    """Write the picture to ``path``: the same records give the same bytes."""
    settings = {"svg.hashsalt": "lrm_lightning", "font.size": 10, "svg.fonttype": "path"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(8, 3.2), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        width = 0.8 / len(BARS)
        for place, (suite, attack, title, color) in enumerate(BARS):
            records = [_record(method, suite) for method in TITLES]
            values = np.array([100 * record.metrics[attack] for record in records])
            ends = np.array([record.intervals[attack] for record in records])
            errors = np.abs(100 * ends.T - values)
            x = np.arange(len(TITLES)) + (place - 1) * width
            axes.bar(x, values, width, yerr=errors, label=title, color=color, capsize=2)
        axes.set_xticks(range(len(TITLES)), list(TITLES.values()))
        axes.set_ylabel("accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _record(method: str, suite: str) -> EvaluationRecord:
    (path,) = FOLDER.glob(f"{method}-*/evaluations/{suite}*.json")
    return read_record(path, EvaluationRecord)


if __name__ == "__main__":
    draw(PICTURE)
