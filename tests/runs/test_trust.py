"""Code that a run directory names runs where the user trusts its package, and nowhere else."""

import sys

import pytest
import torch
import yaml

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.suites import evaluate
from lrm_lightning.evaluation.transfer import transfer
from lrm_lightning.export import export_model
from lrm_lightning.runs.identity import plain
from lrm_lightning.runs.networks import load_model

MINE = """
from pathlib import Path

from my_models.parts import Helper
from torch import nn

from lrm_lightning.data import DigitsDataModule

Path("imported").touch()


class Network(nn.Module):
    def __init__(self, hidden, num_classes):
        super().__init__()
        linear = nn.Linear(3072, hidden), nn.Linear(hidden, num_classes)
        self.layers = nn.Sequential(nn.Flatten(), *linear)

    def forward(self, x):
        return self.layers(x)


class Inverted(DigitsDataModule):
    name = "inverted"

    def __init__(self, *, inverted, **shared):
        super().__init__(**shared)
        self.inverted = inverted

    def load(self):
        train, test = super().load()
        return train, test._replace(images=255 - test.images if self.inverted else test.images)


def number(hidden, num_classes):
    return hidden
"""


@pytest.fixture
def run(make_run, tmp_path, monkeypatch):
    """A finished run of a network and of data that a package of the user's defines."""
    package = tmp_path / "my_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("class Helper: pass\n")
    (package / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = make_run("regular-0a1b2c3d")
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    saved["network"] = {"_target_": "my_models.mine.Network", "hidden": 4, "num_classes": 10}
    data = {"_target_": "my_models.mine.Inverted", "name": "inverted", "inverted": True}
    for part in ("identity", "config"):
        saved[part]["data"] = data | {"batch_size": 32, "val_size": 40}
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(3072, 4), torch.nn.Linear(4, 10)
        )
    state = {f"network.layers.{key}": each for key, each in network.state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints/last.ckpt")
    yield folder
    for name in [each for each in sys.modules if each.partition(".")[0] == "my_models"]:
        del sys.modules[name]


def _edit(run, target):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("my_models.mine.Network", target))


def test_without_trust_nothing_of_it_is_imported(run, composed):
    with pytest.raises(UserError, match=r"give trust=\[my_models\]"):
        load_model(run)
    with pytest.raises(UserError, match=r"give trust=\[my_models\]"):
        export_model(run, "out")
    with pytest.raises(UserError, match=r"give trust=\[my_models\]"):
        evaluate(plain(composed("evaluate", f"runs=[{run}]")))
    with pytest.raises(UserError, match=r"give trust=\[my_models\]"):
        load_model(run, trust=["my_model", "models", "mine"])
    assert not (run.parents[1] / "imported").exists()


def test_every_command_takes_the_same_trust(run, composed, tmp_path):
    trust = "trust=[my_models]"
    exported = export_model(run, tmp_path / "exported", trust=["my_models"])
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = load_model(run, trust=["my_models.mine"])
    assert torch.equal(load_model(exported, trust=["my_models"])(x), network(x))
    with pytest.raises(UserError, match=r"give trust=\[my_models\]"):
        load_model(exported)

    few = ("n_images=20", "suite.steps=1", "suite.table=[1]", "suite.logits_at=1")
    (record,) = evaluate(plain(composed("evaluate", f"runs=[{run}]", trust, *few)))
    assert record.data.name == "inverted"
    both = (f"sources=[{run}]", f"targets=[{exported}]", "steps=1", "n_images=20")
    matrix = transfer(plain(composed("transfer", *both, trust)))
    assert matrix.same_network == [[True]]


def test_data_need_trust_too_and_get_their_own_settings(run):
    from lrm_lightning.evaluation.session import data_settings, load_data

    trained = yaml.safe_load((run / "config.yaml").read_text())["config"]
    nothing = {"name": None, "root": None, "require_official": None}
    with pytest.raises(UserError, match=r"or trust its class my_models.mine.Inverted with trust="):
        data_settings(trained, nothing)
    assert not (run.parents[1] / "imported").exists()
    data = load_data(data_settings(trained, nothing, ["my_models"]))
    assert (data.inverted, data.batch_size, data.val_size) == (True, 32, 0)
    digits = data_settings(trained, nothing | {"name": "digits"}, ["my_models"])
    assert digits["_target_"] == "lrm_lightning.data.DigitsDataModule"


@pytest.mark.parametrize(
    ("target", "trust", "message"),
    [
        ("my_models.mine.nn.Linear", ["my_models"], "cannot be imported"),
        ("my_models.mine.Path", ["my_models"], "not this package's"),  # what it imports
        ("my_models.mine.Helper", ["my_models.mine"], "not this package's"),
        ("my_models.mine.Nothing", ["my_models"], "not this package's"),
        ("my_models.missing.Network", ["my_models"], "ModuleNotFoundError"),
        ("my_models.mine.number", ["my_models"], "returned a int, not a torch.nn.Module"),
        ("my_models.mine.Network", "my_models:mine", "must be a list of packages"),
        ("my_models.mine.Network", [""], "must be a list of packages"),
        ("my_models.mine.Network", [3], "must be a list of packages"),
    ],
)
def test_what_trust_does_not_reach(target, trust, message, run):
    _edit(run, target)
    with pytest.raises(UserError, match=message) as error:
        load_model(run, trust=trust)
    assert "\n" not in str(error.value)
