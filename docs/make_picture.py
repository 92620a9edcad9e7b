"""Draw the README's picture and the paper's figures from the records in ``results/``."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lrm_lightning.reporting.aggregate import aggregate, load
from lrm_lightning.reporting.figures import logits
from lrm_lightning.reporting.figures.style import style
from lrm_lightning.runs.intervals import wilson_interval

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/cifar10-jpeg-short"
PICTURE, FIGURES = ROOT / "docs/picture.svg", ROOT / "docs/figures"
# Figures of the report, and the folders of results/ with their records.
OF_THE_REPORT = {
    logits.figure_1_left: "cifar10-jpeg-short",
    logits.figure_1_right: "figure1",
    logits.figure_2_left: "cifar10-jpeg-5-epochs",
    logits.figure_2_right: "cifar10-jpeg-short",
}
TITLES = {
    "regular": "regular",
    "label_smoothing": "label\nsmoothing",
    "pgd": "PGD",
    "alp": "ALP",
    "lrm": "LRM",
}
# Attack, legend, colour.
BARS = (
    ("clean", "natural", "#cbd5e1"),
    ("pgd20", "PGD-20, as papers report it", "#60a5fa"),
    ("square", "AutoAttack", "#1e3a8a"),
)


def draw(path: Path) -> None:
    """Write the picture to ``path``: the same records give the same bytes."""
    settings = {"svg.hashsalt": "lrm_lightning", "font.size": 10, "svg.fonttype": "path"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(8, 3.2), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        width = 0.8 / len(BARS)
        for place, (attack, title, color) in enumerate(BARS):
            verdicts = [_verdicts(method, attack) for method in TITLES]
            values = np.array([100 * each.mean() for each in verdicts])
            ends = np.array([wilson_interval(int(each.sum()), len(each)) for each in verdicts])
            errors = np.abs(100 * ends.T - values)
            x = np.arange(len(TITLES)) + (place - 1) * width
            axes.bar(x, values, width, yerr=errors, label=title, color=color, capsize=2)
        axes.set_xticks(range(len(TITLES)), list(TITLES.values()))
        axes.set_ylabel("accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside upper center", ncols=len(BARS))
        figure.savefig(path, metadata={"Date": None})


def draw_figures(folder: Path) -> None:
    """Write the paper's figures into ``folder``, as the report has them but on white."""
    folder.mkdir(exist_ok=True)
    for figure, records in OF_THE_REPORT.items():
        (results,) = aggregate(load([str(ROOT / "results" / records)]))
        with style():
            for plot in figure(results):
                plot.figure.savefig(
                    folder / f"{plot.slug}.svg",
                    facecolor="white",
                    transparent=False,
                    metadata={"Date": None, "Title": plot.caption},
                )


def _verdicts(method: str, attack: str) -> np.ndarray:
    """Of the whole test set, or of 1,000 images for attacks that ran on those alone."""
    (path,) = FOLDER.glob(f"{method}-*/correct.npz")
    with np.load(path) as whole, np.load(FOLDER / "attacks-1000.npz") as some:
        return whole[attack] if attack in whole else some[f"{method}.{attack}"]


if __name__ == "__main__":
    draw(PICTURE)
    draw_figures(FIGURES)
