"""The whole report before it is Markdown or HTML, and its figures' files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrm_lightning.reporting.discovery import Records
from lrm_lightning.reporting.figures.style import Plot, save, style
from lrm_lightning.reporting.measurements import data_sets
from lrm_lightning.reporting.records import Data
from lrm_lightning.reporting.sections import Section, sections
from lrm_lightning.reporting.sources import Source, SourceBook
from lrm_lightning.reporting.table import Table

FIGURES = "figures"


@dataclass(frozen=True)
class Chapter:
    """Everything on one data set.

    Attributes:
        slug: Begins the names of its anchors and files.
        title: The data's name, with what is not official about it.
    """

    slug: str
    title: str
    data: Data
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Document:
    """The report.

    Attributes:
        summary: What it is made from, in one sentence.
        svgs: Each figure's SVG, by slug, to put into a page.
        skipped: One line for each file that was left out.
    """

    chapters: tuple[Chapter, ...]
    summary: str
    sources: tuple[Source, ...]
    svgs: Mapping[str, str]
    skipped: tuple[str, ...]


def compose(records: Records, out: Path) -> Document:
    """Make every part of the report, and write the figures below ``out``.

    Args:
        records: What was found.
        out: The report's folder; exists.

    Raises:
        UserError: If a figure can't be written.
    """
    book = SourceBook(records)
    folder = out / FIGURES
    chapters, svgs = [], {}
    with style():
        for data, slug in _slugs(data_sets(records)):
            made = [_prefixed(each, slug) for each in sections(records, data, book)]
            for section in made:
                svgs |= {each.slug: save(each, folder) for each in section.plots}
            chapters.append(Chapter(slug, data.title, data, tuple(made)))
    return Document(
        chapters=tuple(chapters),
        summary=_summary(records),
        sources=tuple(book.sources),
        svgs=svgs,
        skipped=tuple(records.skipped),
    )


def _slugs(found: Sequence[Data]) -> list[tuple[Data, str]]:
    slugs: list[tuple[Data, str]] = []
    for data in found:
        slug = re.sub(r"[^a-z0-9]+", "-", data.name.lower()).strip("-")[:40] or "data"
        taken = sum(other == slug or other.startswith(f"{slug}--") for _, other in slugs)
        slugs.append((data, f"{slug}--{taken + 1}" if taken else slug))
    return slugs


def _prefixed(section: Section, chapter: str) -> Section:
    parts = [
        replace(part, slug=f"{chapter}-{part.slug}") if isinstance(part, (Table, Plot)) else part
        for part in section.parts
    ]
    return replace(section, slug=f"{chapter}-{section.slug}", parts=parts)


def _summary(records: Records) -> str:
    counts = (
        (len(records.runs), "training run", "training runs"),
        (len(records.evaluations), "evaluation", "evaluations"),
        (len(records.transfers), "black-box matrix", "black-box matrices"),
    )
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
    everything = (*records.runs, *records.evaluations, *records.transfers)
    newest = max((each.origin.written for each in everything), default="")
    return f"Made from {', '.join(parts)}" + (
        f"; the newest record is of {newest[:10]}." if newest else "."
    )
