"""The commands ``wandb sweep`` and ``wandb agent`` on the sweep files, and a server of ours."""

import os
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.slow
def test_an_agent_trains_what_the_sweep_says(
    wandb_server, of_wandb, python, interpreter, small, tmp_path
):
    def wandb(*arguments):
        path = f"{Path(interpreter).parent}:{os.environ['PATH']}"  # an agent starts `python`
        environment = of_wandb(wandb_server) | {"PATH": path}
        output = python("-m", "wandb", *arguments, folder=tmp_path, quiet=False, **environment)
        assert "Traceback" not in output
        return output

    sweep = yaml.safe_load((ROOT / "sweeps/wandb/smoothing.yaml").read_text())
    ((key, choices),) = sweep["parameters"].items()
    choices["values"] = choices["values"][-1:]
    own = [each for each in small if each not in ("trainer=cpu", "logger=csv")]
    own += ["robust_accuracy.steps=[10]", "checkpoint.monitor=val/acc/pgd10"]  # the sweep's metric
    # what makes it small comes before the agent's parameters, as a user's own overrides would
    sweep["command"][-1:-1] = [*own, *TWO]
    (tmp_path / "sweep.yaml").write_text(yaml.dump(sweep))

    created = wandb("sweep", "--project", "lrm_lightning", "sweep.yaml")
    started = re.search(r"wandb agent (\S+)", created)
    assert started is not None
    wandb("agent", started[1])

    assert list(wandb_server.given.values()) == choices["values"]
    assert wandb_server.ended == list(wandb_server.runs) == list(wandb_server.given)
    (run,) = wandb_server.runs.values()
    assert (run.settings["sweep"], run.settings["groupName"]) == ("sweep1", "smoothing")
    assert (run.settings["project"], run.settings["entity"]) == ("lrm_lightning", "us")
    assert run.exit_code == 0
    # the agent's parameter is in the configuration that was trained, and W&B has its result
    group, option = key.split(".")
    wanted = wandb_server.given[run.name]
    assert run.config[key]["value"] == run.config[group]["value"][option] == wanted
    scores = [row["val/acc/pgd10"] for row in run.history if "val/acc/pgd10" in row]
    assert len(scores) == 2
    assert run.summary[sweep["metric"]["name"]] == scores[-1]
    assert sum("test/acc/pgd4" in row for row in run.history) == 1
    (record,) = tmp_path.glob("runs/digits/*/record.json")
    assert run.settings["displayName"] == record.parent.name
