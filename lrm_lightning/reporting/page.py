"""Step 5, page: sections on each data set as one HTML file that needs nothing else, and Markdown.

Figures and tables are files beside it, too.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrm_lightning.checks import check_choice
from lrm_lightning.errors import cannot_write
from lrm_lightning.evaluation.metrics import is_number
from lrm_lightning.reporting import paper, tables, tabular
from lrm_lightning.reporting.aggregate import Records, Results, aggregate
from lrm_lightning.reporting.figures import FIGURES
from lrm_lightning.reporting.figures.style import save
from lrm_lightning.reporting.gallery import galleries
from lrm_lightning.reporting.leaderboard import leaderboard
from lrm_lightning.reporting.parts import MINUS, NOTHING, Part, Plot, Table, percent_range
from lrm_lightning.reporting.references import References
from lrm_lightning.runs.files import counted, write_text
from lrm_lightning.runs.records import Data, one_line, printable

PAGE, TEXT, DRAWN, TABLES = "index.html", "report.md", "figures", "tables"
SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")

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
        "If accuracy falls as PGD takes more steps, the robustness under few steps was not real;"
        " section 5.3 finds this for label smoothing.",
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
        "From left to right: the image, ten times the perturbation around grey, the attacked image."
        " Every network is shown the same images.",
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


def write(document: Document, out: Path) -> Path:
    """Write the page, Markdown, figures and tables into a folder; returns the page."""
    folder = out / DRAWN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (out / TABLES).mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error, "another with out=...") from error
    svgs = {}
    for part in document.parts:
        if isinstance(part, Plot):
            svgs[part.slug] = Markup(save(part, folder))
        elif isinstance(part, Table):
            write_text(out / TABLES / f"{part.slug}.tex", tabular.latex(part))
            write_text(out / TABLES / f"{part.slug}.csv", tabular.comma_separated(part))
    # Numbers of references are those of the Markdown, which has every part but the pictures.
    write_text(out / TEXT, markdown(document))
    page = _environment(finalize=visible).get_template("page.html.j2")
    write_text(out / PAGE, page.render(document=document, svgs=svgs, paper=paper))
    return out / PAGE


def markdown(document: Document) -> str:
    """The report as Markdown, with links to the figures."""
    page = _environment(finalize=text).get_template("report.md.j2")
    return page.render(document=document, paper=paper, figures=DRAWN).rstrip() + "\n"


def visible(raw: object) -> object:
    """A text without control and direction characters, which paths may have; others as they are."""
    return one_line(raw) if type(raw) is str else raw


def text(raw: object) -> Markup:
    """``raw`` so that Markdown shows it as it is, and no HTML comes of it."""
    if isinstance(raw, Markup):
        return raw
    harmless = one_line(str(raw)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(SPECIAL.sub(r"\\\1", harmless))


def code(raw: str) -> Markup:
    """``raw`` as code in Markdown; neither a backtick nor an empty line can end it early."""
    raw = one_line(raw)
    if "|" in raw:  # it would end a table's cell, and code has no escapes
        return Markup(f"<code>{text(raw)}</code>")
    longest = max((len(each) for each in re.findall("`+", raw)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if raw.startswith("`") or raw.endswith("`") else ""
    return Markup(f"{fence}{pad}{raw}{pad}{fence}")


def evidence(found: Mapping[str, object]) -> str:
    """What a sign of gradient masking stands on, as text."""
    parts = []
    match found:
        case {
            "count": count, "of": of, "share": _, "interval": [float(low), float(high)],
            "threshold": float(threshold), **found,
        }:  # fmt: skip
            # A count that the evaluation compared with a share.
            parts.append(
                f"{_value(count)} of {_value(of)} images, 95% interval"
                f" {percent_range((low, high))} %; a sign if all of it is above"
                f" {100 * threshold:g} %"
            )
    parts += [f"{words(key)}: {_value(value)}" for key, value in found.items()]
    return "; ".join(parts)


def words(key: object) -> str:
    """A key of a record as words."""
    return printable(str(key)).replace("_", " ")


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
        (len(records.runs), "training run", ""),
        (len(records.evaluations), "evaluation", ""),
        (len(records.transfers), "black-box matrix", "black-box matrices"),
    )
    parts = [counted(*each) for each in counts if each[0]]
    newest = max((origin.record.written for origin in records.everything), default="")
    of = f"; the newest record is of {newest[:10]}" if newest else ""
    return f"Made from {', '.join(parts)}{of}."


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NOTHING}[value]
    if is_number(value):
        return f"{value:.4g}".replace("-", MINUS)
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"({evidence(value)})" if isinstance(value, Mapping) else printable(str(value))


def _environment(**options: Any) -> Environment:
    """Templates that escape everything but figures' SVG, in which matplotlib escapes names."""
    environment = Environment(
        loader=PackageLoader("lrm_lightning.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.tests["part"] = lambda part, kind: type(part).__name__ == kind
    environment.filters |= {"code": code, "evidence": evidence, "words": words}
    return environment
