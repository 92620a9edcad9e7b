"""Step 3, tables: accuracies beside the paper's, black-box matrices, logits, the strong evaluation.

Each table is one function from the results on a data set to the parts that it adds to the report.
"""

from collections.abc import Iterable, Mapping, Sequence

from lrm_lightning.evaluation.metrics import (
    ADAPTIVE,
    ATTACK_TITLES,
    FOLLOWING,
    METHOD,
    NORMS,
    attack_title,
    pgd_steps,
    raised,
    weakness,
)
from lrm_lightning.reporting import paper, settings
from lrm_lightning.reporting.aggregate import (
    METHOD_TITLES,
    Group,
    Records,
    Results,
    Transfer,
    rows_of_paper,
    titled,
)
from lrm_lightning.reporting.parts import (
    Cell,
    Missing,
    Row,
    Table,
    Verdict,
    command,
    number_cell,
    percent_range,
)
from lrm_lightning.runs.files import override, shown_path
from lrm_lightning.runs.records import EvaluationRecord, Network

# How the test at the end of training calls what an evaluation calls clean and adversarial.
LOGGED = {"clean": "clean", "adversarial": "adv"}

INTERVALS = (
    "Accuracy in %, in brackets its 95% Wilson interval over the n test images; “±” is the standard"
    " deviation over seeds."
)
ROWS = (
    "A row is a run with the paper's settings of the method, so label smoothing's s is 0.75; ALP's"
    " weight, which the paper leaves open, may be any. What else is not as in the paper stands"
    " beside it."
)
BESIDE = "Beside it the paper's number and ours minus the paper's, in percentage points."
SAME = "“white-box”: source and target are one network; the paper's are trained independently."
STRONG = (
    " “PGD, best loss” counts an image only if it withstands PGD on each loss,"
    " “AutoAttack” only if it withstands its four attacks,"
    " “all together” only if it withstands every attack. What Square and other networks'"
    " examples broke of what gradient attacks left is told with the verdicts."
)


def table_1(results: Results) -> list[Table]:
    """White-box accuracies of the paper's rows.

    A row of the paper that was trained several ways has a row each; one that wasn't trained yet has
    the command that does it.
    """
    groups = titled(rows_of_paper(results.white_box))
    names = _attack_names(groups)
    rows = []
    for method in paper.METHODS.values():
        ours = [group for group in groups if group.row is method]
        printed = method.white_box if results.comparable else {}
        rows += [_white_box_row(group, names, printed, results) for group in ours]
        if not ours:
            cells = [number_cell((), (), printed.get(name)) for name in names]
            train = command("train", f"method={method.name}", *results.recipe)
            rows.append(Row(method.title, cells, "not trained yet", train))
    notes = [BESIDE, ROWS] if results.comparable else [_no_paper(results)]
    notes = [INTERVALS, *notes, *_adaptive(groups)]
    return _table(results, "table-1", "Table 1. White-box accuracy", names, rows, notes)


def other_configurations(results: Results) -> list[Table]:
    """White-box accuracies of what isn't in :func:`table_1`.

    That is what is none of the paper's rows, and seeds that were not measured as their row was.
    """
    in_table_1 = {id(group) for group in rows_of_paper(results.white_box)}
    others = titled([group for group in results.white_box if id(group) not in in_table_1])
    names = _attack_names(others)
    rows = [_white_box_row(group, names, {}, results) for group in others]
    what = "Other configurations. White-box accuracy"
    notes = [INTERVALS, *_adaptive(others)]
    return _table(results, "other-configurations", what, names, rows, notes)


def table_2(results: Results) -> Sequence[Table | Missing]:
    """Black-box accuracies: a table a record, a row a target, a column a source.

    Where both are the same network the number is no black-box accuracy: it is marked, and the
    paper's doesn't stand beside it.
    """
    tables = []
    matrices = [each.record for each in results.transfers]
    told = settings.differences(
        [record.attack | {"n": record.n, "subset seed": record.subset.seed} for record in matrices]
    )
    for place, (transfer, differs) in enumerate(zip(results.transfers, told, strict=True)):
        record = transfer.record
        titles, targets = (
            _titles(networks, results.records) for networks in (record.sources, record.targets)
        )
        rows = [
            Row(
                targets[row],
                [_black_box(transfer, row, column, results) for column in range(len(titles))],
                target.run_dir,
            )
            for row, target in enumerate(record.targets)
        ]
        notes = [
            f"Accuracy in %, in brackets its 95% Wilson interval over n = {record.n:,} test images."
            " A column is the network that the examples were made on.",
            BESIDE if results.comparable else _no_paper(results),
        ]
        notes += [SAME] if any(cell.mark for row in rows for cell in row.cells) else []
        steps = record.attack.get("steps")
        weak = weakness(record, f"pgd{steps}")
        notes += [f"{weak[0].upper()}{weak[1:]}."] if weak else []
        wrong = settings.unlike(record.attack, paper.THREAT_MODEL) if results.comparable else []
        notes += [f"The attack is not the paper's: {', '.join(wrong)}."] if wrong else []
        slug = f"table-2-{place + 1}" if place else "table-2"
        caption = f"Table 2. Black-box accuracy, {results.data.title}"
        caption += f" ({settings.summary(differs)})" if differs else ""
        tables.append(Table(slug, caption, "target \\ source", titles, rows, notes))
    transfer = command("transfer", "sources=[RUN,...]", "targets=[RUN,...]")
    return tables or [Missing("No black-box matrix yet", transfer)]


def logit_variances(results: Results) -> list[Table]:
    """Variance of all logits on natural and on PGD-20 images."""
    others = [group for group in results.white_box if group.row is None]
    rows = []
    for group in titled([*rows_of_paper(results.white_box), *others]):
        known = paper.LOGIT_VARIANCE if results.comparable and group.row is not None else {}
        printed = known.get(group.method)
        cells = [
            number_cell(_variances(group, kind), group.origins[:1], beside, decimals=2)
            for kind, beside in (("clean", printed), ("adversarial", None))
        ]
        if any(cell.origins for cell in cells):
            wanted = {} if printed is None else paper.LOSS_OF_SECTION_3
            extra = settings.unlike(group.settings, wanted)
            rows.append(Row(group.title, cells, stands_on(group, extra)))
    note = "Biased variance over all logits of the n test images; of several seeds, the lowest."
    note += " Beside it the paper's (section 3) and the difference." if results.comparable else ""
    columns = ["natural images", "adversarial images"]
    return _table(results, "logit-variance", "Variance of the logits", columns, rows, [note])


def strong_table(results: Results) -> list[Table]:
    """Accuracy under each attack of the strong suite, a row a network."""
    measured = {name for group in results.strong for name in group.names}
    names = [name for name in ATTACK_TITLES if name in measured]
    names += sorted(name for name in measured - set(names) if not name.startswith(FOLLOWING))
    rows = [
        Row(group.title, [accuracy(group, name) for name in names], stands_on(group))
        for group in results.strong
    ]
    notes = [INTERVALS + STRONG, *_adaptive(results.strong)]
    return _table(results, "strong-evaluation", "Strong evaluation", names, rows, notes)


def verdicts(results: Results) -> list[Verdict]:
    """Whether each network masks its gradients, with the evidence."""
    found = []
    for group in results.strong:
        for place, record in enumerate(group.evaluations):
            seed = f", seed {group.seeds[place]}" if len(group.origins) > 1 else ""
            if record.masking is not None:
                origins, weak = (group.origins[place],), weakness(record, "autoattack")
                found.append(Verdict(group.title + seed, record.masking, weak, origins))
    return found


def unevaluated(results: Results, suite: str, what: str) -> list[Missing]:
    """The command for the runs that lack a suite: of the paper's rows or, without any, of all."""
    done = {group.training for group in (results.paper if suite == "paper" else results.strong)}
    rows = [group for group in results.tests if group.row is not None]
    missing = [each for each in rows or results.tests if each.training not in done]
    if not missing and (results.tests or done):
        return []
    folders = [shown_path(each.path.parent) for group in missing for each in group.origins]
    runs = override("runs", folders) if folders else "runs=[RUN]"
    of = f" of {', '.join(group.title for group in titled(missing))}" if done else ""
    return [Missing(what + of, command("evaluate", runs, f"suite={suite}"))]


def _table(
    results: Results, slug: str, what: str, names: list[str], rows: list[Row], notes: list[str]
) -> list[Table]:
    """A table with a column an attack and the data in its caption; nothing if it has no rows."""
    caption, columns = f"{what}, {results.data.title}", list(map(attack_title, names))
    return [Table(slug, caption, "training", columns, rows, notes)] if rows else []


def _adaptive(groups: Iterable[Group]) -> list[str]:
    """A note on what adaptive PGD raised, if there is any."""
    losses = sorted({raised(each) for group in groups for each in group.evaluations} - {""})
    own = ", “method” being that of the network's own training" if METHOD in losses else ""
    return [f"“PGD, adaptive” raises the loss {', '.join(losses)}{own}."] if losses else []


def _attack_names(groups: Sequence[Group]) -> list[str]:
    """Table 1's attacks, and PGD with more steps where it was measured."""
    measured = {pgd_steps(name) for group in groups for name in group.names}
    steps = {*measured, *map(pgd_steps, paper.ATTACKS)} - {None}
    adaptive = [ADAPTIVE] if any(ADAPTIVE in group.names for group in groups) else []
    return ["clean", "fgsm", *(f"pgd{each}" for each in sorted(filter(None, steps))), *adaptive]


def _white_box_row(
    group: Group, names: Sequence[str], printed: Mapping[str, float], results: Results
) -> Row:
    cells = [accuracy(group, name, printed.get(name)) for name in names]
    trained, attacked = [], []
    if results.comparable:
        trained = settings.departures(group.method, group.settings) if group.row else []
        attacked = settings.unlike(group.record.attack, paper.THREAT_MODEL)
    named = {"trained": ", ".join(trained), "attacked": ", ".join(attacked)}
    extra = [f"{how} with {what}" for how, what in named.items() if what]
    extra += [f"a debug run: {each}" for each in settings.limits(group.settings)]
    return Row(group.title, cells, stands_on(group, extra))


def accuracy(group: Group, name: str, printed: float | None = None) -> Cell:
    """An accuracy in % with its interval, or its mean and standard deviation over seeds."""
    if name not in group.names:
        return number_cell((), (), printed)
    mark = next(filter(None, (weakness(each.record, name) for each in group.origins)), "")
    shares = [100 * each.record.metrics[name] for each in group.origins]
    bounds = percent_range(group.interval(name))
    return number_cell(shares, group.origins, printed, bounds=bounds, seeds=group.seeds, mark=mark)


def stands_on(group: Group, extra: Iterable[str] = ()) -> str:
    """On how many images and seeds a row stands, and what else there is to say of it."""
    seeds = [str(seed) for seed in group.seeds if seed is not None]
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else ""
    attack = group.record.attack
    norm, eps = (attack.get(key) for key in ("norm", "eps"))
    radius = "" if eps is None else f"{NORMS.get(str(norm), '')} eps {settings.shown(eps)}".strip()
    told = f"n = {group.record.n:,}", radius, named, group.differs, *extra
    return "; ".join(filter(None, told))


def _no_paper(results: Results) -> str:
    return f"The paper has no numbers for {results.data.title}."


def _paper_row(network: Network, records: Records) -> paper.Method | None:
    run = records.run_by_id(network.run_id)
    return run and settings.paper_row(
        run.record.method, settings.training_settings(run.record.config)
    )


def _titles(networks: Sequence[Network], records: Records) -> list[str]:
    """What to call networks: as the paper's row that one alone is, else with the label."""
    rows = [_paper_row(each, records) for each in networks]
    titles = []
    for network, row in zip(networks, rows, strict=True):
        label, title = network.label or network.name, METHOD_TITLES.get(network.name)
        labelled = f"{title} ({label})" if title else label
        titles.append(labelled if row is None or rows.count(row) > 1 else row.title)
    return titles


def _black_box(transfer: Transfer, row: int, column: int, results: Results) -> Cell:
    record, printed = transfer.record, None
    is_same = record.same_network[row][column]
    networks = record.sources[column], record.targets[row]
    of_source, of_target = (_paper_row(each, results.records) for each in networks)
    if results.comparable and not is_same and of_source is not None and of_target is not None:
        printed = of_target.black_box[of_source.name]
    bounds = percent_range(record.intervals[row][column])
    share, mark = record.accuracy[row][column], "white-box" if is_same else ""
    return number_cell([100 * share], (transfer,), printed, bounds=bounds, mark=mark)


def _variances(group: Group, kind: str) -> list[float]:
    """Variance of the logits of a group's lowest seed; empty if its record has none."""
    record = group.record
    if isinstance(record, EvaluationRecord):
        return [record.logits[kind].variance] if kind in record.logits else []
    name = f"test/logits/{LOGGED[kind]}/variance"
    return [record.test_metrics[name]] if name in record.test_metrics else []
