"""What others read of the repository says what is so, and runs the checks that we run."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lrm_lightning.reporting import paper

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_ci_and_hooks_run_the_checks_of_a_submission():
    checks = set(re.findall(r"^make \S+$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert checks == {"make lint", "make test-all"}
    (job,) = _yaml(".github/workflows/ci.yml")["jobs"].values()
    assert {step["run"] for step in job["steps"] if "run" in step} == checks
    (local,) = _yaml(".pre-commit-config.yaml")["repos"]
    assert {hook["entry"] for hook in local["hooks"]} == {"make lint", "make test"}


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
    assert PROJECT["urls"]["Paper"] == cited["references"][0]["url"] == paper.URL


def test_every_command_is_a_program_too():
    for program, target in PROJECT["scripts"].items():
        module, function = target.split(":")
        assert module.removesuffix(".__main__") == program.replace("lrm-", "lrm_lightning.")
        assert callable(get_object(f"{module}.{function}"))
    source = (ROOT / "lrm_lightning").glob("*.py")
    commands = {f"lrm-{path.stem}" for path in source if "@cli.command(" in path.read_text()}
    assert PROJECT["scripts"].keys() == commands | {"lrm-runs"}


def _pins(path):
    """(name, version, number of hashes) of each requirement in a file of pip's."""
    for line in path.read_text(encoding="utf-8").replace("\\\n", "").splitlines():
        if not line.startswith("#"):
            requirement, *hashes = line.split(" --hash=sha256:")
            parsed = Requirement(requirement.partition(" --hash")[0])
            assert all(re.fullmatch(r"[0-9a-f]{64}\s*", each) for each in hashes)
            (pin,) = parsed.specifier
            assert pin.operator == "=="
            yield canonicalize_name(parsed.name), pin.version, len(hashes)


CONSTRAINTS = {name: version for name, version, _ in _pins(ROOT / "constraints.txt")}
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
# Of other systems, or of a build of torch that the tests do not run with.
ELSEWHERE = re.compile(r"colorama|triton|(cuda|nvidia)-.+")


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_has_hashes_of_the_versions_that_are_pinned(path):
    for name, version, hashes in _pins(path):
        assert hashes > 0, name
        assert ELSEWHERE.fullmatch(name) or CONSTRAINTS[name] == version, name


def test_the_locks_have_all_that_is_required():
    assert [path.stem for path in LOCKS] == ["build", "requirements", "torch-cpu", "torch-cuda"]
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = {canonicalize_name(Requirement(each).name) for each in wanted}
    pinned = {name for path in LOCKS[1:3] for name, *_ in _pins(path)}
    assert not names - pinned
    assert "torch" in {name for name, *_ in _pins(LOCKS[3])} & pinned
