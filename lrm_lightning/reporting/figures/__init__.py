"""Step 4, figures: each one function from the results on a data set to plots, all in one list.

To add one, write a function and append it to :data:`FIGURES` with the section it stands in, as
``docs/extending.md`` shows. Where the records have nothing to draw it returns an empty list, or a
:class:`~lrm_lightning.reporting.parts.Missing` with the command that makes what it needs.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from lrm_lightning.reporting.aggregate import Results
from lrm_lightning.reporting.figures import curves, logits
from lrm_lightning.reporting.figures.style import draw, new_axes, plot
from lrm_lightning.reporting.parts import Missing, Plot

__all__ = ["FIGURES", "Figure", "draw", "new_axes", "plot"]

Figure: TypeAlias = Callable[[Results], Sequence[Plot | Missing]]

# A section's slug, and a figure that stands in it.
FIGURES: list[tuple[str, Figure]] = [
    ("steps", curves.step_curve),
    ("eps", curves.eps_curves),
    ("logits", logits.figure_1_left),
    ("logits", logits.figure_1_right),
    ("logits", logits.figure_2_left),
    ("logits", logits.figure_2_right),
    ("training", curves.training_plots),
]
