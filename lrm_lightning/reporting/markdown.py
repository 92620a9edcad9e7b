"""The report as Markdown: tables and links to the figures, every name from a file made harmless."""

import re
from collections.abc import Iterable

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.document import FIGURES, Document
from lrm_lightning.reporting.figures.style import Plot
from lrm_lightning.reporting.sections import Missing, Part, Section
from lrm_lightning.reporting.sources import Source
from lrm_lightning.reporting.strong import Verdict
from lrm_lightning.reporting.table import Cell, Row, Table

SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def render(document: Document) -> str:
    """The whole report."""
    lines = [
        "# Logit regularization: our numbers beside the paper's",
        "",
        f"{text(document.summary)} The paper: {paper.TITLE}, <{paper.URL}>. The same with"
        " attacked images: `index.html`.",
        "",
    ]
    for chapter in document.chapters:
        lines += [f"## {text(chapter.title)}", ""]
        for section in chapter.sections:
            lines += _section(section)
    lines += ["## Sources", "", *(_source(source) for source in document.sources)]
    if document.skipped:
        lines += ["", "## Left out", "", *(f"- {text(each)}" for each in document.skipped)]
    return "\n".join(lines).rstrip() + "\n"


def table(content: Table) -> str:
    """One table with its caption and notes."""
    lines = [
        f"**{text(content.caption)}**",
        "",
        _line([text(content.corner), *map(text, content.columns), "on"]),
        _line(["---", *("---:" for _ in content.columns), "---"]),
        *(_row(row) for row in content.rows),
        "",
        *(f"{text(note)}" for note in content.notes),
    ]
    return "\n".join(lines) + "\n"


def text(raw: str) -> str:
    """``raw`` so that Markdown shows it as it is, and no HTML comes of it."""
    harmless = raw.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", harmless)


def code(raw: str) -> str:
    """``raw`` as code; a backtick can't end it early."""
    longest = max((len(each) for each in re.findall("`+", raw)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if raw.startswith("`") or raw.endswith("`") else ""
    # A pipe would end a table's cell even in code.
    return f"{fence}{pad}{raw}{pad}{fence}".replace("|", "\\|")


def _section(section: Section) -> list[str]:
    lines = [part for each in section.parts for part in _part(each)]
    return [f"### {text(section.title)}", "", text(section.intro), "", *lines] if lines else []


def _part(part: Part) -> list[str]:
    if isinstance(part, Table):
        return [table(part)]
    if isinstance(part, Plot):
        link = f"![{text(part.alt)}]({FIGURES}/{part.slug}.svg)"
        return [link, "", f"{text(part.caption)} {_cited(part.sources)}".rstrip(), ""]
    if isinstance(part, Verdict):
        return _verdict(part)
    if isinstance(part, Missing):
        return [f"{text(part.what)}: run {code(part.command)}", ""]
    return []  # the gallery is the page's alone


def _row(row: Row) -> str:
    on = text(row.detail) + (f": run {code(row.command)}" if row.command else "")
    return _line([text(row.head), *map(_cell, row.cells), on])


def _cell(cell: Cell) -> str:
    beside = [f"paper {cell.paper}"] if cell.paper else []
    beside += [cell.difference] if cell.difference else []
    beside += [cell.mark] if cell.mark else []
    parts = [
        cell.value,
        text(cell.range),
        f"({', '.join(beside)})" if beside else "",
        _cited(cell.sources),
    ]
    return " ".join(part for part in parts if part)


def _verdict(verdict: Verdict) -> list[str]:
    lines = [f"**{text(verdict.title)}: {text(verdict.verdict)}** {_cited(verdict.sources)}", ""]
    for sign in verdict.signs:
        fired = "yes" if sign.fired else "no"
        why = "; ".join(text(each) for each in (sign.evidence, sign.source) if each)
        lines.append(f"- {text(sign.name)}: {fired}. {text(sign.explanation)} ({why})")
    if verdict.note:
        lines.append(f"- no sign, but: {text(verdict.note)}")
    return [*lines, ""]


def _source(source: Source) -> str:
    facts = "; ".join(f"{name}: {value}" for name, value in (*source.facts, *source.details))
    command = f"; made by {code(source.command)}" if source.command else ""
    return f"[^{source.number}]: {text(source.title)}. {text(facts)}{command}"


def _cited(sources: Iterable[int]) -> str:
    return "".join(f"[^{each}]" for each in sources)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
