"""Table 2: accuracy of targets on the adversarial examples of other networks."""

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.discovery import Records
from lrm_lightning.reporting.groups import METHOD_TITLES
from lrm_lightning.reporting.records import Model, Transfer
from lrm_lightning.reporting.settings import attack_departures, paper_method, training_settings
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import Cell, Row, Table, number, percent_range, signed
from lrm_lightning.reporting.white_box import BESIDE

SAME = "white-box"


def table_2(transfer: Transfer, place: int, records: Records, book: SourceBook) -> Table:
    """The matrix of one transfer record.

    Args:
        transfer: The record.
        place: Its place among the records on the same data, from 0.
        records: Where the networks' configurations are looked up.
        book: Where the record is cited.

    Returns:
        A row a target, a column a source. Where both are the same network the number is no
        black-box accuracy: it is marked, and the paper's doesn't stand beside it.
    """
    comparable = transfer.data.name == paper.DATA
    sources = [_row_of_paper(model, records) for model in transfer.sources]
    number_of_source = book.cite(transfer)
    rows = []
    any_same = False
    for target, accuracies, intervals in zip(
        transfer.targets, transfer.accuracy, transfer.intervals, strict=True
    ):
        of_target = _row_of_paper(target, records)
        cells = []
        for place_of_source, source in enumerate(transfer.sources):
            same = _is_same(source, target)
            any_same |= same
            of_source = sources[place_of_source]
            printed = None
            if comparable and not same and of_target is not None and of_source is not None:
                printed = of_target.black_box[of_source.name]
            interval = intervals[place_of_source]
            value = 100 * accuracies[place_of_source]
            cells.append(
                Cell(
                    value=number(value),
                    range=percent_range(interval) if interval is not None else "",
                    paper=number(printed) if printed is not None else "",
                    difference=signed(value - printed) if printed is not None else "",
                    mark=SAME if same else "",
                    sources=(number_of_source,),
                )
            )
        rows.append(Row(_title(target, records), tuple(cells), target.run_dir))
    notes = [
        f"Accuracy in %, in brackets its 95% Wilson interval over n = {transfer.n:,} test images."
        " A column is the network that the examples were made on."
    ]
    notes += [BESIDE] if comparable else [f"The paper has no numbers for {transfer.data.title}."]
    if any_same:
        notes.append(
            f"“{SAME}”: source and target are one network; the paper's are trained independently."
        )
    wrong = attack_departures(transfer.attack) if comparable else []
    notes += ["The attack is not the paper's: " + ", ".join(wrong) + "."] if wrong else []
    return Table(
        slug="table-2" if place == 0 else f"table-2-{place + 1}",
        caption=f"Table 2. Black-box accuracy, {transfer.data.title}",
        corner="target \\ source",
        columns=tuple(_title(model, records) for model in transfer.sources),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _row_of_paper(model: Model, records: Records) -> paper.Method | None:
    run = records.run_by_id(model.run_id)
    return paper_method(run.method, training_settings(run.config)) if run is not None else None


def _title(model: Model, records: Records) -> str:
    row = _row_of_paper(model, records)
    if row is not None:
        return row.title
    title = METHOD_TITLES.get(model.name)
    return f"{title} ({model.label})" if title else model.label


def _is_same(source: Model, target: Model) -> bool:
    if source.weights and target.weights:
        return source.weights == target.weights
    return bool(source.run_id) and source.run_id == target.run_id
