"""The commands ``wandb sweep`` and ``wandb agent`` on the sweep files, and a server of ours."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SweepServer = runpy.run_path(str(ROOT / "tests/tracking/wandb_sweep_server.py"))["SweepServer"]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture
def server():
    pytest.importorskip("wandb")
    server = SweepServer()
    server.start()
    yield server
    server.stop()
    assert server.unknown == []


@pytest.fixture
def wandb(server, tmp_path):
    """The command ``wandb``, logged in there; gives what it says."""
    environment = {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "k" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_X_DISABLE_STATS": "true",
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # an agent starts `python`
        **{f"WANDB_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "CACHE", "DATA")},
    }

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "wandb", *arguments],
            cwd=tmp_path,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=1000)
        finally:
            process.terminate()  # where it is still there; an agent then ends its runs
        assert process.returncode == 0, output
        assert "Traceback" not in output
        return output

    return run


@pytest.mark.parametrize(
    ("name", "n_values", "trainer"),
    [("smoothing", 2, ("trainer=cpu",)), ("squeezing", 1, TWO)],
    ids=["one process", "two processes"],
)
def test_an_agent_trains_what_the_sweep_says(
    name, n_values, trainer, wandb, server, small, tmp_path
):
    sweep = yaml.safe_load((ROOT / f"sweeps/wandb/{name}.yaml").read_text())
    ((key, choices),) = sweep["parameters"].items()
    choices["values"] = values = choices["values"][-n_values:]
    own = [each for each in small if each not in ("trainer=cpu", "logger=csv")]
    # what makes it small comes before the agent's parameters, as a user's own overrides would
    sweep["command"][-1:-1] = [*own, *trainer]
    (tmp_path / "sweep.yaml").write_text(yaml.dump(sweep))

    created = wandb("sweep", "--project", "lrm_lightning", "sweep.yaml")
    started = re.search(r"wandb agent (\S+)", created)
    assert started is not None
    wandb("agent", started[1])

    assert [each[key] for each in server.given.values()] == values
    assert server.ended == list(server.runs) == list(server.given)
    group, option = key.split(".")
    for run in server.runs.values():
        assert (run.settings["sweep"], run.settings["groupName"]) == ("sweep1", name)
        assert (run.settings["project"], run.settings["entity"]) == ("lrm_lightning", "us")
        assert run.exit_code == 0
        # the agent's parameter is in the configuration that was trained, and W&B has its result
        wanted = server.given[run.name][key]
        assert run.config[key]["value"] == run.config[group]["value"][option] == wanted
        scores = [row["val/acc/pgd10"] for row in run.history if "val/acc/pgd10" in row]
        assert len(scores) == 2
        assert run.summary[sweep["metric"]["name"]] == scores[-1]
        assert sum("test/acc/pgd20" in row for row in run.history) == 1
    directories = {each.parent.name for each in tmp_path.glob("runs/digits/*/record.json")}
    assert {run.settings["displayName"] for run in server.runs.values()} == directories
