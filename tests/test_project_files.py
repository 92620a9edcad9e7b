"""What others read of the repository says what is so, and runs the checks that we run."""

import re
import tomllib
from pathlib import Path

import yaml
from hydra.utils import get_object

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_ci_and_hooks_run_the_checks_of_a_submission():
    checks = set(re.findall(r"^make \w+$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert checks == {"make lint", "make test"}
    (job,) = _yaml(".github/workflows/ci.yml")["jobs"].values()
    assert {step["run"] for step in job["steps"] if "run" in step} == checks
    (local,) = _yaml(".pre-commit-config.yaml")["repos"]
    assert {hook["entry"] for hook in local["hooks"]} == checks


def test_ci_pins_its_actions_and_begins_with_the_oldest_python():
    (job,) = _yaml(".github/workflows/ci.yml")["jobs"].values()
    for action in (step["uses"] for step in job["steps"] if "uses" in step):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action)
    assert f">={job['strategy']['matrix']['python'][0]}" == PROJECT["requires-python"]


def test_the_citation_has_what_its_format_demands():
    cited = _yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["license"] == PROJECT["license"]
    papers = [reference["title"] for reference in cited["references"]]
    assert papers[0] in (ROOT / "README.md").read_text(encoding="utf-8")
    for reference in cited["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert [author["family-names"] for author in reference["authors"]] == ["Summers", "Dinneen"]
    assert PROJECT["urls"]["Paper"] == cited["references"][1]["url"]


def test_every_command_is_a_program_too():
    for program, target in PROJECT["scripts"].items():
        module, function = target.split(":")
        assert module.removesuffix(".__main__") == program.replace("lrm-", "lrm_lightning.")
        assert callable(get_object(f"{module}.{function}"))
    source = (ROOT / "lrm_lightning").glob("*.py")
    commands = {f"lrm-{path.stem}" for path in source if "@cli.command(" in path.read_text()}
    assert PROJECT["scripts"].keys() == commands | {"lrm-runs"}
