"""The report as one HTML file that needs nothing else: no script, no network, no other file."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.document import Document
from lrm_lightning.reporting.sections import Part


def render(document: Document) -> str:
    """The page.

    Everything from records is escaped; only our own style sheet and the figures' SVG, which
    matplotlib escapes, go in as they are.
    """
    environment = Environment(
        loader=PackageLoader("lrm_lightning.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["part"] = _is_part
    loader = environment.loader
    assert loader is not None
    css, _, _ = loader.get_source(environment, "page.css")
    return environment.get_template("page.html.j2").render(
        document=document,
        css=Markup(css),
        svgs={slug: Markup(svg) for slug, svg in document.svgs.items()},
        paper_title=paper.TITLE,
        paper_url=paper.URL,
    )


def _is_part(part: Part, kind: str) -> bool:
    return type(part).__name__ == kind
