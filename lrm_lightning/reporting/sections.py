"""What a report contains, part by part; what is missing is said, with the command that makes it."""

from dataclasses import dataclass, field
from typing import TypeAlias

from lrm_lightning.reporting.black_box import table_2
from lrm_lightning.reporting.discovery import Records
from lrm_lightning.reporting.figures.logits import figure_1_left, figure_2_right, is_figure_2
from lrm_lightning.reporting.figures.steps import step_curve
from lrm_lightning.reporting.figures.strength import figure_1_right, figure_2_left
from lrm_lightning.reporting.figures.style import Plot
from lrm_lightning.reporting.figures.training import training_plots
from lrm_lightning.reporting.gallery import Gallery, galleries
from lrm_lightning.reporting.groups import Group, titled
from lrm_lightning.reporting.logits_table import logit_variances
from lrm_lightning.reporting.measurements import evaluated, own_tests, white_box
from lrm_lightning.reporting.records import Data
from lrm_lightning.reporting.sources import SourceBook, evaluate_command
from lrm_lightning.reporting.strong import Verdict, strong_table, verdicts
from lrm_lightning.reporting.table import Table
from lrm_lightning.reporting.white_box import other_configurations, table_1
from lrm_lightning.runs.files import shown_path


@dataclass(frozen=True)
class Missing:
    """What isn't there yet, and the command that makes it."""

    what: str
    command: str


Part: TypeAlias = Table | Plot | Verdict | Gallery | Missing


@dataclass
class Section:
    """One section of one data set's part of the report; ``intro`` says how to read it."""

    slug: str
    title: str
    intro: str = ""
    parts: list[Part] = field(default_factory=list)

    def add(self, *parts: Part | None, otherwise: Missing | None = None) -> None:
        """Append what there is; ``otherwise`` if there is nothing."""
        found = [part for part in parts if part is not None]
        self.parts += found or ([otherwise] if otherwise is not None else [])

    @property
    def plots(self) -> list[Plot]:
        """Its figures, in order."""
        return [part for part in self.parts if isinstance(part, Plot)]


def sections(records: Records, data: Data, book: SourceBook) -> list[Section]:
    """All sections on one data set."""
    groups = white_box(records, data)
    paper_suite = evaluated(records, data, "paper")
    runs = own_tests(records, data)
    return [
        _white_box(groups, data, book),
        _black_box(records, data, book),
        _steps(records, paper_suite, data, book),
        _logits(groups, runs, paper_suite, data, book),
        _strong(records, data, book),
        _training(runs, data, book),
        _gallery(records, paper_suite, book),
        *_others(groups, data, book),
    ]


def _white_box(groups: list[Group], data: Data, book: SourceBook) -> Section:
    section = Section(
        "white-box",
        "White-box accuracy",
        "The attacker knows the network. PGD-k takes k steps; more steps are a stronger attack.",
    )
    section.add(table_1(groups, data, book))
    return section


def _others(groups: list[Group], data: Data, book: SourceBook) -> list[Section]:
    table = other_configurations(groups, data, book)
    return [Section("others", "Other configurations", parts=[table])] if table is not None else []


def _black_box(records: Records, data: Data, book: SourceBook) -> Section:
    section = Section(
        "black-box",
        "Black-box accuracy",
        "The attacker makes 10-step PGD examples on a source network and tries them on a target.",
    )
    found = [each for each in records.transfers if each.data == data]
    section.add(
        *(table_2(each, place, records, book) for place, each in enumerate(found)),
        otherwise=Missing(
            "No black-box matrix yet",
            "python -m lrm_lightning.transfer 'sources=[RUN,...]' 'targets=[RUN,...]'",
        ),
    )
    return section


def _steps(records: Records, groups: list[Group], data: Data, book: SourceBook) -> Section:
    section = Section(
        "steps",
        "More steps",
        "Robustness that fades as PGD takes more steps was none; section 5.3 finds this in label"
        " smoothing.",
    )
    section.add(step_curve(groups, data, book))
    section.add(_unevaluated(records, data, "paper", "No accuracy by step yet"))
    return section


def _logits(
    groups: list[Group],
    runs: list[Group],
    paper_suite: list[Group],
    data: Data,
    book: SourceBook,
) -> Section:
    section = Section(
        "logits",
        "What happens to the logits",
        "Pairing, squeezing and smoothing all shrink the logits.",
    )
    section.add(
        figure_1_left(paper_suite, data, book),
        otherwise=Missing(
            "No Fig. 1 left yet, it needs the logits of PGD and ALP",
            evaluate_command("RUN", "paper"),
        ),
    )
    section.add(
        figure_1_right([paper_suite, runs], data, book),
        otherwise=Missing(
            "No Fig. 1 right yet, it needs PGD or ALP trained with several squeezing strengths",
            _sweep("figure1", data),
        ),
    )
    section.add(
        *figure_2_left([paper_suite, runs], data, book),
        otherwise=Missing(
            "No Fig. 2 left yet, it needs several strengths of smoothing", _sweep("smoothing", data)
        ),
    )
    section.add(
        figure_2_right(paper_suite, data, book), otherwise=_figure_2_right_needs(runs, data)
    )
    section.add(logit_variances(groups, data, book))
    return section


def _figure_2_right_needs(runs: list[Group], data: Data) -> Missing:
    what = "No Fig. 2 right yet, it needs the logits of label smoothing with s = 0.75"
    for group in runs:
        if is_figure_2(group) and group.first.run is not None:
            return Missing(what, evaluate_command(shown_path(group.first.run.folder), "paper"))
    train = "python -m lrm_lightning.train method=label_smoothing method.smoothing=0.75"
    return Missing(what, f"{train} data={data.name}")


def _strong(records: Records, data: Data, book: SourceBook) -> Section:
    section = Section(
        "strong",
        "Strong evaluation and gradient masking",
        "A defence may only spoil the gradient that attacks follow. Below the table: what was"
        " looked for as a sign of that, and the evidence.",
    )
    groups = evaluated(records, data, "strong")
    section.add(strong_table(groups, data, book))
    section.add(*verdicts(groups, book))
    section.add(_unevaluated(records, data, "strong", "No strong evaluation yet"))
    return section


def _training(groups: list[Group], data: Data, book: SourceBook) -> Section:
    section = Section(
        "training",
        "Training curves",
        "On images held out of the training set, as training went on.",
    )
    section.add(
        *training_plots(groups, data, book),
        otherwise=Missing(
            "No training curves: no run directory with a metrics.csv is among the records",
            f"python -m lrm_lightning.train -m method=alp,pgd,lrm data={data.name}",
        ),
    )
    return section


def _gallery(records: Records, groups: list[Group], book: SourceBook) -> Section:
    section = Section(
        "gallery",
        "Gallery",
        "From left to right: the image, ten times the perturbation around grey, the attacked image"
        " (PGD-20). Every network is shown the same images.",
    )
    section.add(
        *galleries(groups, book, records.skipped),
        otherwise=Missing("No attacked images yet", evaluate_command("RUN", "paper")),
    )
    return section


def _unevaluated(records: Records, data: Data, suite: str, what: str) -> Missing | None:
    """Which of the paper's rows, or of all runs if none is one, ``suite`` wasn't run on."""
    done = {group.training for group in evaluated(records, data, suite)}
    runs = own_tests(records, data)
    rows = [group for group in runs if group.row is not None]
    missing = [group for group in rows or runs if group.training not in done]
    if not missing:
        return None if runs or done else Missing(what, evaluate_command("RUN", suite))
    origins = [group.first.run for group in missing]
    folders = ",".join(shown_path(run.folder) for run in origins if run is not None)
    of = " of " + ", ".join(group.title for group in titled(missing)) if done else ""
    return Missing(what + of, evaluate_command(folders, suite))


def _sweep(name: str, data: Data) -> str:
    return (
        f"python -m lrm_lightning.train --config-dir sweeps --config-name {name} data={data.name}"
    )
