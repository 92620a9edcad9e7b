"""Step 5, page: one HTML file that needs nothing else, the same as Markdown, and the figures."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.metrics import is_number
from lrm_lightning.reporting import paper, tabular
from lrm_lightning.reporting.document import Document
from lrm_lightning.reporting.figures.style import save
from lrm_lightning.reporting.parts import MINUS, NOTHING, Plot, Table, percent_range
from lrm_lightning.runs.files import write_text
from lrm_lightning.runs.records import one_line, printable

PAGE, TEXT, FIGURES, TABLES = "index.html", "report.md", "figures", "tables"
SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")


def write(document: Document, out: Path) -> Path:
    """Write the page, Markdown, figures and tables into a folder; returns the page."""
    folder = out / FIGURES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (out / TABLES).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; choose another with out=..."
        ) from error
    plots = [part for part in document.parts if isinstance(part, Plot)]
    svgs = {plot.slug: Markup(save(plot, folder)) for plot in plots}
    for part in document.parts:
        if isinstance(part, Table):
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
    return page.render(document=document, paper=paper, figures=FIGURES).rstrip() + "\n"


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
