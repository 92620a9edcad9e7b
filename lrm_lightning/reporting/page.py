"""Step 5, page: one HTML file that needs nothing else, the same as Markdown, and the figures."""

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrm_lightning.errors import UserError
from lrm_lightning.reporting import paper
from lrm_lightning.reporting.document import Document
from lrm_lightning.reporting.figures.style import save
from lrm_lightning.reporting.parts import MINUS, NOTHING, Part, Plot, percent_range
from lrm_lightning.reporting.settings import is_number
from lrm_lightning.runs.files import write_text
from lrm_lightning.runs.records import printable

PAGE, TEXT, FIGURES = "index.html", "report.md", "figures"
SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def write(document: Document, out: Path) -> Path:
    """Write ``index.html``, ``report.md`` and ``figures/`` into a folder, made if absent.

    Returns:
        The page.

    Raises:
        UserError: If a file can't be written.
    """
    folder = out / FIGURES
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; choose another with out=..."
        ) from error
    svgs = {part.slug: save(part, folder) for part in document.parts if isinstance(part, Plot)}
    write_text(out / TEXT, markdown(document))
    write_text(out / PAGE, html(document, svgs))
    return out / PAGE


def html(document: Document, svgs: Mapping[str, str]) -> str:
    """The page: no script, no network, no other file.

    Everything from records is escaped; only our own style sheet and the figures' SVG, by slug,
    which matplotlib escapes, go in as they are.
    """
    environment = _environment()
    css = environment.get_template("page.css").render()
    return environment.get_template("page.html.j2").render(
        document=document,
        css=Markup(css),
        svgs={slug: Markup(svg) for slug, svg in svgs.items()},
        paper=paper,
    )


def markdown(document: Document) -> str:
    """The same as Markdown, with links to the figures."""
    environment = _environment()
    environment.finalize = text
    environment.filters["code"] = code
    page = environment.get_template("report.md.j2")
    return page.render(document=document, paper=paper, figures=FIGURES).rstrip() + "\n"


def text(raw: object) -> Markup:
    """``raw`` so that Markdown shows it as it is, and no HTML comes of it."""
    if isinstance(raw, Markup):
        return raw
    harmless = str(raw).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(SPECIAL.sub(r"\\\1", harmless))


def code(raw: str) -> Markup:
    """``raw`` as code in Markdown; a backtick can't end it early."""
    longest = max((len(each) for each in re.findall("`+", raw)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if raw.startswith("`") or raw.endswith("`") else ""
    # A pipe would end a table's cell even in code.
    return Markup(f"{fence}{pad}{raw}{pad}{fence}".replace("|", "\\|"))


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


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lrm_lightning.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["part"] = _is_part
    environment.filters |= {"evidence": evidence, "words": words}
    return environment


def _is_part(part: Part, kind: str) -> bool:
    return type(part).__name__ == kind
