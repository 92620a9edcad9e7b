"""The whole report before it is a page: sections of tables and figures on each data set."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from lrm_lightning.checks import check_choice
from lrm_lightning.reporting import tables
from lrm_lightning.reporting.aggregate import Results, aggregate
from lrm_lightning.reporting.figures import FIGURES
from lrm_lightning.reporting.gallery import galleries
from lrm_lightning.reporting.leaderboard import leaderboard
from lrm_lightning.reporting.load import Records
from lrm_lightning.reporting.parts import Part, Plot, Table
from lrm_lightning.reporting.references import References
from lrm_lightning.runs.records import Data

Maker: TypeAlias = Callable[[Results], Sequence[Part]]

# Slug, title, how to read it, and what makes its parts; the figures of FIGURES stand before them.
SECTIONS: tuple[tuple[str, str, str, tuple[Maker, ...]], ...] = (
    (
        "ranking",
        "Leaderboard",
        "What is left under AutoAttack, and by how much the customary attack flatters.",
        (leaderboard,),
    ),
    (
        "white-box",
        "White-box accuracy",
        "The attacker knows the network. PGD-k takes k steps; more steps are a stronger attack.",
        (tables.table_1,),
    ),
    (
        "black-box",
        "Black-box accuracy",
        "The attacker makes 10-step PGD examples on a source network and tries them on a target.",
        (tables.table_2,),
    ),
    (
        "steps",
        "More steps",
        "Robustness that fades as PGD takes more steps was none; section 5.3 finds this in label"
        " smoothing.",
        (partial(tables.unevaluated, suite="paper", what="No accuracy by step yet"),),
    ),
    (
        "eps",
        "Larger eps",
        "PGD at rising eps; an image that is broken at one counts as broken at every larger one. Of"
        " an honest network no accuracy is left at a large eps.",
        (),
    ),
    (
        "logits",
        "What happens to the logits",
        "Pairing, squeezing and smoothing all shrink the logits.",
        (tables.logit_variances,),
    ),
    (
        "strong",
        "Strong evaluation and gradient masking",
        "A defence may only spoil the gradient that attacks follow. Below the table: what was"
        " looked for as a sign of that, and the evidence.",
        (
            tables.strong_table,
            tables.verdicts,
            partial(tables.unevaluated, suite="strong", what="No strong evaluation yet"),
        ),
    ),
    (
        "training",
        "Training curves",
        "On images held out of the training set, as training went on.",
        (),
    ),
    (
        "gallery",
        "Gallery",
        "From left to right: the image, ten times the perturbation around grey, the attacked image"
        " (PGD-20). Every network is shown the same images.",
        (galleries,),
    ),
    ("others", "Other configurations", "", (tables.other_configurations,)),
)


class Section(NamedTuple):
    """One section on one data set; ``intro`` says how to read it."""

    slug: str
    title: str
    intro: str
    parts: list[Part]


class Chapter(NamedTuple):
    """Everything on one data set; ``slug`` begins the names of its anchors and files."""

    slug: str
    data: Data
    sections: list[Section]


@dataclass(frozen=True)
class Document:
    """The report: what it is made from, in a sentence, its chapters, and what was left out."""

    summary: str
    chapters: list[Chapter]
    references: References
    skipped: list[str]

    @property
    def parts(self) -> list[Part]:
        """Every part, in order."""
        return [
            part
            for chapter in self.chapters
            for section in chapter.sections
            for part in section.parts
        ]


def compose(records: Records) -> Document:
    """Every part of the report; figures are drawn in matplotlib's style of the moment."""
    chapters: list[Chapter] = []
    for results in aggregate(records):
        slug = re.sub("[^a-z0-9]+", "-", results.data.name.lower()).strip("-")[:40] or "data"
        taken = sum(each.slug == slug or each.slug.startswith(f"{slug}--") for each in chapters)
        slug += f"--{taken + 1}" if taken else ""
        chapters.append(Chapter(slug, results.data, _sections(results, slug)))
    return Document(_summary(records), chapters, References(records), records.skipped)


def _sections(results: Results, chapter: str) -> list[Section]:
    for section, _ in FIGURES:
        check_choice("a figure's section", section, [slug for slug, *_ in SECTIONS])
    sections = []
    for slug, title, intro, makers in SECTIONS:
        figures = [figure for section, figure in FIGURES if section == slug]
        parts = [
            part._replace(slug=f"{chapter}-{part.slug}")
            if isinstance(part, (Table, Plot))
            else part
            for make in (*figures, *makers)
            for part in make(results)
        ]
        sections += [Section(f"{chapter}-{slug}", title, intro, parts)] if parts else []
    return sections


def _summary(records: Records) -> str:
    counts = (
        (len(records.runs), "training run", "training runs"),
        (len(records.evaluations), "evaluation", "evaluations"),
        (len(records.transfers), "black-box matrix", "black-box matrices"),
    )
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
    newest = max((origin.record.written for origin in records.everything), default="")
    of = f"; the newest record is of {newest[:10]}" if newest else ""
    return f"Made from {', '.join(parts)}{of}."
