"""Every command that the pages show composes and validates; nothing is trained.

Those of docs/extending.md are run by test_extending.py.
"""

import itertools
import os
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrm_lightning.reporting import listing
from lrm_lightning.runs import __main__ as runs
from lrm_lightning.runs import identity
from lrm_lightning.training import build

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(make|python|torchrun)\s")


def _shown(path):
    """The commands of a page: lines of its bash blocks, and what is set as code in its text."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*"".join(blocks).splitlines(), *spans]:
        if COMMAND.match(line):
            yield shlex.join(shlex.split(line, comments=True))


SHOWN = sorted({line for page in PAGES if page.stem != "extending" for line in _shown(page)})


def _made(line):
    """What a command does: itself, or what ``make`` would call."""
    if not line.startswith("make "):
        return [line]
    # Not what an outer make has been told: it hands its own variables on.
    environment = {"PATH": os.environ["PATH"]}
    words = ["make", "--dry-run", *shlex.split(line)[1:]]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ").splitlines()


def _jobs(overrides, *, sweep):
    """The overrides of each job of a sweep; of an interval to search in, its lower end."""
    choices = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_interval_sweep():
            choices.append([f"{override.get_key_element()}={override.value().start}"])
        elif override.is_sweep_override():
            assert sweep, f"{override.input_line} needs -m"
            values = override.sweep_string_iterator()
            choices.append([f"{override.get_key_element()}={value}" for value in values])
        else:
            choices.append([override.input_line])
    return itertools.product(*choices)


def _validate(command, words):
    if command == "runs":
        runs.runs(words)
        return
    given = get_args_parser().parse_args(words)
    name = given.config_name or {"train": "config"}.get(command, command)
    overrides, folder = given.overrides, identity.conf_dir()
    if "hydra/launcher=ray" in overrides:  # somebody else's
        overrides = [each for each in overrides if not re.match(r"\+?hydra[./]launcher", each)]
    if given.config_dir:
        overrides = [*overrides, f"hydra.searchpath=[file://{folder}]"]
        folder = ROOT / given.config_dir
    for job in _jobs(overrides, sweep=given.multirun or bool(given.config_dir)):
        _validate_job(command, name, str(folder), job)


@cache  # many a make target makes what another one makes
def _validate_job(command, name, folder, job):
    with initialize_config_dir(folder, version_base="1.3"):
        cfg = compose(name, list(job))
    if command == "train":
        build.validate(cfg)
    else:
        identity.check_kinds(cfg, name)


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_of_the_pages_is_right(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = np.zeros((4, 9, 7), np.uint8), np.arange(4)
    np.savez("my.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for name in ("find", "compare", "show"):
        monkeypatch.setattr(listing, name, lambda *_: [])
    for made in _made(line):
        if found := re.search(r"-m lrm_lightning\.(\w+)(.*)", made):
            _validate(found[1], shlex.split(found[2]))


@pytest.mark.parametrize(
    "line",
    [
        "make nothing",
        "python -m lrm_lightning.train method=alp,pgd",
        "python -m lrm_lightning.train -m method=alp seed=0,-1",
        "python -m lrm_lightning.evaluate nonsense=1",
        "python -m lrm_lightning.runs nonsense",
        "make sweep-smoothing ARGS=seed=-1",
    ],
)
def test_a_wrong_command_is_found(line, tmp_path, monkeypatch):
    with pytest.raises(Exception, match=r"nothing|needs -m|seed|nonsense"):
        test_a_command_of_the_pages_is_right(line, tmp_path, monkeypatch)


def test_the_pages_show_every_command():
    modules = {"train", "evaluate", "transfer", "export", "report", "runs", "dashboard"}
    calls = [made for line in SHOWN for made in _made(line)]
    assert modules == set(re.findall(r"-m lrm_lightning\.(\w+)", "\n".join(calls)))
