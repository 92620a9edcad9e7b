"""Table 1: natural, FGSM and PGD accuracies beside the paper's; the same of all other runs."""

from collections.abc import Iterable, Mapping, Sequence

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.groups import Group, titled
from lrm_lightning.reporting.measurements import best_measured
from lrm_lightning.reporting.records import Data
from lrm_lightning.reporting.settings import attack_departures, departures
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import Cell, Row, Table, accuracy_cell, number, stands_on

ATTACK_TITLES = {"clean": "natural", "fgsm": "FGSM"}

INTERVALS = (
    "Accuracy in %, in brackets its 95% Wilson interval over the n test images; “±” is the standard"
    " deviation over seeds."
)
ROWS = (
    "A row is a run with the method's settings in conf/method, so label smoothing's s is 0.5; what"
    " else is not as in the paper stands beside it."
)
BESIDE = "Beside it the paper's number and ours minus the paper's, in percentage points."


def attack_title(name: str) -> str:
    """An attack as the paper writes it: ``pgd20`` is PGD-20."""
    if name.startswith("pgd") and name[3:].isdigit():
        return f"PGD-{name[3:]}"
    return ATTACK_TITLES.get(name, name)


def attack_names(groups: Iterable[Group]) -> list[str]:
    """Table 1's attacks, and PGD with more steps where it was measured."""
    measured = {name for group in groups for name in group.names}
    more = [name for name in measured if name.startswith("pgd") and name[3:].isdigit()]
    more = sorted({*more, *paper.ATTACKS[2:]}, key=lambda name: int(name[3:]))
    return ["clean", "fgsm", *more]


def table_1(groups: Sequence[Group], data: Data, book: SourceBook) -> Table:
    """The five rows of the paper.

    Args:
        groups: White-box accuracies on ``data``.
        data: The images; only CIFAR-10's stand beside the paper's numbers.
        book: Where sources are cited.

    Returns:
        A row for each configuration that is one of the paper's, and one with the command for each
        row of the paper that wasn't trained yet.
    """
    comparable = data.name == paper.DATA
    shown = titled(_of_paper(groups))
    names = attack_names(shown)
    rows: list[Row] = []
    for method in paper.METHODS.values():
        ours = [group for group in shown if group.row is method]
        printed = method.white_box if comparable else {}
        rows += [_row(group, names, book, printed, comparable=comparable) for group in ours]
        if not ours:
            rows.append(_missing(method, names, data, comparable=comparable))
    notes = [INTERVALS, BESIDE, ROWS] if comparable else [INTERVALS, _no_paper(data)]
    return Table(
        slug="table-1",
        caption=f"Table 1. White-box accuracy, {data.title}",
        corner="training",
        columns=tuple(attack_title(name) for name in names),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def other_configurations(groups: Sequence[Group], data: Data, book: SourceBook) -> Table | None:
    """White-box accuracies of what isn't in :func:`table_1`; ``None`` if there is nothing.

    That is what is none of the paper's rows, and seeds that were not measured as their row was.
    """
    in_table_1 = _of_paper(groups)
    others = titled([group for group in groups if group not in in_table_1])
    if not others:
        return None
    names = attack_names(others)
    return Table(
        slug="other-configurations",
        caption=f"Other configurations. White-box accuracy, {data.title}",
        corner="training",
        columns=tuple(attack_title(name) for name in names),
        rows=tuple(
            _row(group, names, book, {}, comparable=data.name == paper.DATA) for group in others
        ),
        notes=(INTERVALS,),
    )


def _of_paper(groups: Sequence[Group]) -> list[Group]:
    return best_measured([group for group in groups if group.row is not None])


def _row(
    group: Group,
    names: Sequence[str],
    book: SourceBook,
    printed: Mapping[str, float],
    *,
    comparable: bool,
) -> Row:
    cells = tuple(accuracy_cell(group, name, book, printed.get(name)) for name in names)
    entry = group.first
    extra: list[str] = []
    if comparable:
        trained = departures(entry.method, entry.settings)
        extra += ["trained with " + ", ".join(trained)] if trained and group.row is not None else []
        attacked = attack_departures(entry.origin.attack)
        extra += ["attacked with " + ", ".join(attacked)] if attacked else []
    return Row(group.title, cells, stands_on(group, extra))


def _missing(method: paper.Method, names: Sequence[str], data: Data, *, comparable: bool) -> Row:
    printed = method.white_box if comparable else {}
    cells = tuple(Cell(paper=number(printed[name]) if name in printed else "") for name in names)
    command = f"python -m lrm_lightning.train method={method.name} data={data.name}"
    return Row(method.title, cells, "not trained yet", command)


def _no_paper(data: Data) -> str:
    return f"The paper has no numbers for {data.title}."
