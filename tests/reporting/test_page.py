"""The page as a browser and its readers get it."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lrm_lightning.report import report
from lrm_lightning.reporting import page as module
from lrm_lightning.reporting import paper

SCRIPT = Path(module.__file__).parent / "templates" / "sort.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
]
VOID = {"meta", "link", "img", "br", "use", "path"}
LOADS = {"src", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href"}
# Scrolling inside an element is fine; the page itself must not scroll sideways.
PROBE = """<!doctype html><iframe id="f" style="width:{width}px;height:800px;border:0"
srcdoc="{page}"></iframe><script>
addEventListener("load", () => {{
  const root = document.getElementById("f").contentDocument.documentElement;
  document.title = root.scrollWidth + " of " + root.clientWidth;
}});
</script>"""

# Presses headings of the leaderboard one after another, and tells what the table shows after each.
PRESS = """<script>
const table = document.querySelector("table.sortable"), headings = [...table.tHead.rows[0].cells];
const shown = () => [
  [...table.tBodies[0].rows].map((row) => row.cells[0].firstChild.textContent.trim()).join(" "),
  headings.map((each) => each.getAttribute("aria-sort")),
];
const press = (place) => (headings[place].querySelector("button").click(), shown());
document.title = JSON.stringify([shown(), ...[1, 1, 6, 6, 0].map(press)]);
</script>"""


class Page(HTMLParser):
    """Collects elements, and complains about tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for found, attributes, _ in self.elements if found == tag]


@pytest.fixture(scope="module")
def html(published):
    return (published / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_nothing_is_loaded_from_anywhere(page, html):
    (script,) = page.text["script"]  # ours alone, whatever records are called
    assert script.strip() == SCRIPT.read_text(encoding="utf-8").strip()
    assert page.all("script") == [{}]
    assert not page.all("iframe")
    ids = {attributes["id"] for _, attributes, _ in page.elements if "id" in attributes}
    for tag, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in LOADS & attributes.keys():
            assert attributes[name].startswith("data:image/png;base64,"), (tag, name)
        href = attributes.get("href")
        if href is not None and href.startswith("#"):
            assert href[1:] in ids, href
        elif href is not None:
            # The paper may be cited, by a link that one has to follow.
            allowed = tag == "a" and href == paper.URL
            assert allowed or (tag, href) == ("link", "data:,")
    (css,) = page.text["style"]
    assert "@import" not in css
    urls = set(re.findall(r"url\(([^)]*)\)", html))
    assert all(url.startswith("#") for url in urls)


def test_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_names_from_records_are_escaped(html, published):
    assert html.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    markdown = (published / "report.md").read_text(encoding="utf-8")
    # In code nothing is HTML.
    assert "<script" not in re.sub("(`+)(?!`).*?(?<!`)\\1(?!`)", "", markdown)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in markdown
    for svg in (published / "figures").glob("*.svg"):
        assert "<script" not in svg.read_text(encoding="utf-8")


def test_every_number_leads_to_where_it_came_from(page):
    values = [each for each in page.all("a") if each.get("class") == "value"]
    assert len(values) > 100
    sources = {each["id"] for each in page.all("li") if each.get("id", "").startswith("source-")}
    for value in values:
        assert value["href"][1:] in sources
        for fact in ("run: ", "data: ", "n: ", "seed: ", "commit: 0123456789ab"):
            assert fact in value["title"]


def test_every_table_has_a_caption_that_marks_its_data(page):
    captions = page.text["caption"]
    assert len(captions) == len(page.all("table")) >= 5
    assert all("CIFAR-10 (not the official bytes)" in caption for caption in captions)


def test_everything_seen_can_be_read_out(page):
    assert all(image.get("alt") for image in page.all("img"))
    plots = [each for each in page.all("div") if each.get("class") == "plot"]
    assert len(plots) == len([tag for tag, _, _ in page.elements if tag == "svg"]) >= 7
    assert all(each["role"] == "img" and len(each["aria-label"]) > 40 for each in plots)
    assert page.all("html")[0]["lang"] == "en"
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    assert [tag for tag, _, _ in page.elements].count("h1") == 1


def test_every_part_is_there(html, published):
    for what in (
        "Table 1.", "Table 2.", "Fig. 1 left", "Fig. 1 right", "Fig. 2 left", "Fig. 2 right",
        "Section 5.3", "Strong evaluation", "Variance of the logits", "Other configurations",
        "Natural accuracy of the validation split", "Training loss", "Gallery",
    ):  # fmt: skip
        assert what in html, what
    figures = sorted(path.name for path in (published / "figures").iterdir())
    for stem in ("fig-1-left", "fig-1-right", "fig-2-left", "fig-2-right", "step-curve"):
        assert f"cifar10-{stem}.pdf" in figures
        assert f"cifar10-{stem}.svg" in figures


def test_what_is_missing_is_said_with_its_command(html):
    assert re.search(
        r"No strong evaluation yet of Regular, ALP, LRM\. "
        r"Run <code>python -m lrm_lightning\.evaluate [^<]* suite=strong</code>",
        html,
    )


def test_what_was_left_out_is_said(html):
    assert re.search(
        r'<section id="left-out".*broken/record\.json is no RunRecord', html, re.DOTALL
    )


def run_chromium(tmp_path, *arguments):
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_a_browser_opens_it_without_an_error(published, tmp_path):
    shot = tmp_path / "page.png"
    page = (published / "index.html").as_uri()
    done = run_chromium(tmp_path, "--window-size=1200,1600", f"--screenshot={shot}", page)
    assert "CONSOLE" not in done.stderr
    assert shot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_does_not_scroll_sideways(html, tmp_path, width):
    escaped = html.replace("&", "&amp;").replace('"', "&quot;")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width, page=escaped), encoding="utf-8")
    done = run_chromium(tmp_path, "--window-size=1400,900", "--dump-dom", probe.as_uri())
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2]) == width


def test_a_heading_sorts_the_leaderboard(records, tmp_path):
    # Natural accuracy, AutoAttack, and what PGD-20 flatters by: as text, -3.0 and 10.0 would
    # come before 9.0.
    rows = {
        "nuat": (0.09, 0.5, None), "alp": (1.0, 0.4, 9), "mart": (0.5, 0.3, -3),
        "pgd": (0.6, 0.2, 10),
    }  # fmt: skip
    for method, (clean, left, above) in rows.items():
        run = records.run(method, n=100, curves=False)
        record = records.strong(run, n=100, clean=clean, autoattack=left)
        index = np.arange(100)
        np.savez(record.with_suffix(".npz"), index=index, autoattack=index < 100 * left)
        if above is not None:
            pgd20 = left + above / 100
            record = records.evaluation(run, "paper", {"pgd20": pgd20}, n=100)
            np.savez(record.with_suffix(".npz"), index=index, pgd20=index < round(100 * pgd20))
    report([str(records.folder)], tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    (tmp_path / "pressed.html").write_text(html + PRESS)
    done = run_chromium(tmp_path, "--dump-dom", (tmp_path / "pressed.html").as_uri())
    title = re.search("<title>(.*)</title>", done.stdout)
    assert title is not None
    states = [
        ("NuAT ALP MART PGD", None, None),  # as written
        ("ALP PGD MART NuAT", 1, "descending"),
        ("NuAT MART PGD ALP", 1, "ascending"),
        ("PGD ALP MART NuAT", 6, "descending"),
        ("MART ALP PGD NuAT", 6, "ascending"),  # what is missing stays last
        ("ALP MART NuAT PGD", 0, "ascending"),  # by names
    ]
    assert json.loads(unescape(title[1])) == [
        [order, [how if place == column else None for place in range(9)]]
        for order, column, how in states
    ]
