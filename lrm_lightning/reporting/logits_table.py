"""Variance of the logits, which the paper gives for PGD and ALP."""

from collections.abc import Sequence

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.fields import is_number
from lrm_lightning.reporting.groups import Group, titled
from lrm_lightning.reporting.measurements import best_measured
from lrm_lightning.reporting.records import Data, Evaluation
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import Cell, Row, Table, cited, number, signed, stands_on

# How the test at the end of training calls what an evaluation calls clean and adversarial.
LOGGED = {"clean": "clean", "adversarial": "adv"}


def logit_variances(groups: Sequence[Group], data: Data, book: SourceBook) -> Table | None:
    """Variance of all logits on natural and on PGD-20 images; ``None`` if no record has it."""
    comparable = data.name == paper.DATA
    rows = []
    for group in titled(best_measured([each for each in groups if each.row is not None])):
        assert group.row is not None
        printed = paper.LOGIT_VARIANCE.get(group.row.name) if comparable else None
        cells = (
            _cell(group, "clean", book, printed),
            _cell(group, "adversarial", book, None),
        )
        if any(cell.sources for cell in cells):
            rows.append(Row(group.title, cells, stands_on(group)))
    if not rows:
        return None
    return Table(
        slug="logit-variance",
        caption=f"Variance of the logits, {data.title}",
        corner="training",
        columns=("natural images", "adversarial images"),
        rows=tuple(rows),
        notes=(
            "Biased variance over all logits of the n test images; of several seeds, the lowest."
            + (" Beside it the paper's (section 3) and the difference." if comparable else ""),
        ),
    )


def variance(group: Group, kind: str) -> float | None:
    """Variance of the logits of a group's lowest seed; ``None`` if its record has none."""
    origin = group.first.origin
    if isinstance(origin, Evaluation):
        found = origin.logits.get(kind)
        return found.variance if found is not None else None
    logged = origin.test_metrics.get(f"test/logits/{LOGGED[kind]}/variance")
    return float(logged) if isinstance(logged, (int, float)) and is_number(logged) else None


def _cell(group: Group, kind: str, book: SourceBook, printed: float | None) -> Cell:
    value = variance(group, kind)
    if value is None:
        return Cell()
    return Cell(
        value=number(value, 2),
        paper=number(printed, 2) if printed is not None else "",
        difference=signed(value - printed, 2) if printed is not None else "",
        sources=cited(group, book)[:1],
    )
