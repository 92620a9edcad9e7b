"""The dashboard as code: built without W&B, equal to what is stored, and what W&B is sent."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from lrm_lightning import dashboard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning"),
]

# A changed dashboard is stored by: python tests/tracking/test_dashboard.py
SNAPSHOT = Path(__file__).with_name("dashboard.yaml")


def _specification(view):
    """Of a workspace; panels without the names that are drawn for them."""
    specification = json.loads(view)
    for section in specification["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            assert panel.pop("__id__")
    return specification


def _built():
    workspace = dashboard.build("us", "lrm_lightning", "Logit regularization")
    return _specification(
        workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    )


@pytest.fixture
def installed():
    pytest.importorskip("wandb_workspaces", reason="the extra [dashboards] is not installed")


def test_the_specification_is_the_stored_one(alone, installed):
    assert _built() == yaml.safe_load(SNAPSHOT.read_text())


def test_it_shows_what_was_asked_for():
    sections = yaml.safe_load(SNAPSHOT.read_text())["section"]["panelBankConfig"]["sections"]
    panels = {each["name"]: [panel["config"] for panel in each["panels"]] for each in sections}
    for metric in ("val/acc/clean", "val/acc/pgd10"):
        (lines,) = [
            each for each in panels["Robust and clean accuracy"] if each["metrics"] == [metric]
        ]
        assert (lines["xAxis"], lines["groupBy"]) == ("epoch", "method.value.name")
    for sweep, strength in (
        ("label smoothing", "smoothing"),
        ("logit squeezing", "squeeze_weight"),
    ):
        axes = {(each["xAxis"], each["yAxis"]) for each in panels[f"Sweep: {sweep}"]}
        assert (f"config:method.value.{strength}", "summary:test/acc/pgd20") in axes
        assert (f"config:method.value.{strength}", "summary:test/acc/clean") in axes
    every = [each for configs in panels.values() for each in configs]
    metrics = {name for each in every for name in each.get("metrics", [])}
    assert {
        "val/logits/clean/variance",
        "val/logits/adv/variance",
        "val/pairing/assumption",
        "val/pairing/scale_gradient",
        "train/images_per_s",
    } <= metrics


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process; its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dashboard", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        try:
            dashboard.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


def test_the_command_sends_it(server, installed, command):
    code, out, err = command("project=somewhere")
    assert (code, err) == (0, "")
    ((name, view),) = server.views.items()
    assert view["entityName"] == "us"  # the key's own
    assert view["projectName"] == "somewhere"
    assert view["displayName"] == "Logit regularization"
    assert _specification(view["spec"]) == yaml.safe_load(SNAPSHOT.read_text())
    assert out.startswith(f"created {server.url}/us/somewhere?nw=")
    assert name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: no W&B key; `wandb login` stores one\n"),
        (("project=",), "error: project='' must be a text\n"),
        (("name=3",), "error: name=3 must be text; a number is one in two pairs of quotes\n"),
    ],
)
def test_a_mistake_is_one_line(alone, installed, command, arguments, message):
    assert command(*arguments) == (1, "", message)


def test_without_the_extra(alone, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    code, out, err = command()
    assert (code, out) == (1, "")
    assert err == (
        "error: wandb-workspaces is not installed; pip install 'lrm_lightning[dashboards]'\n"
    )


def test_what_wandb_refuses_is_one_line(server, installed, command, monkeypatch):
    monkeypatch.setattr(type(server), "_on_UpsertView2", lambda self, values: None)
    code, out, err = command()
    assert (code, out) == (1, "")
    assert err.startswith("error: W&B did not take the workspace: ")
    assert len(err.splitlines()) == 1


if __name__ == "__main__":
    text = yaml.safe_dump(_built(), width=100, default_flow_style=None, sort_keys=False)
    SNAPSHOT.write_text(text)
