"""Step 4, figures: each one function from the results on a data set to plots, all in one list.

To add one, write a function and append it to :data:`FIGURES` with the section it stands in. The
:class:`~lrm_lightning.reporting.aggregate.Results` that it is given have the accuracies of each
configuration, its seeds together, and behind them the typed records::

    from lrm_lightning.reporting.figures import FIGURES, draw, new_axes, plot

    def by_length(results):
        axes = new_axes("epochs", "natural accuracy, %")
        seen, origins = ["Natural accuracy by epochs"], ()
        for group in results.tests:
            epochs, accuracy = group.runs[0].record.epochs, 100 * group.mean("clean")
            draw(axes, [epochs], [accuracy], group.title, marker="o")
            seen.append(f"{group.title}: {accuracy:.1f}% after {epochs}")
            origins += group.origins
        caption = f"Accuracy by length of training, {results.data.title}"
        return [plot(axes, "by-length", caption, seen, origins)] if origins else []

    FIGURES.append(("training", by_length))

Where the records have nothing to draw it returns an empty list, or a
:class:`~lrm_lightning.reporting.parts.Missing` with the command that makes what it needs.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from lrm_lightning.reporting.aggregate import Results
from lrm_lightning.reporting.figures.curves import step_curve, training_plots
from lrm_lightning.reporting.figures.logits import figure_1_left, figure_2_right
from lrm_lightning.reporting.figures.strength import figure_1_right, figure_2_left
from lrm_lightning.reporting.figures.style import draw, new_axes, plot
from lrm_lightning.reporting.parts import Missing, Plot

__all__ = ["FIGURES", "Figure", "draw", "new_axes", "plot"]

Figure: TypeAlias = Callable[[Results], Sequence[Plot | Missing]]

# A section's slug, and a figure that stands in it.
FIGURES: list[tuple[str, Figure]] = [
    ("steps", step_curve),
    ("logits", figure_1_left),
    ("logits", figure_1_right),
    ("logits", figure_2_left),
    ("logits", figure_2_right),
    ("training", training_plots),
]
