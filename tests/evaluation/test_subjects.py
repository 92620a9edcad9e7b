"""Networks from runs, exports and elsewhere, and what is said about those that can't be had."""

import sys

import pytest
import safetensors.torch
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.settings import choose_device, data_settings, load_data, threat_model
from lrm_lightning.evaluation.subjects import find_runs, from_outside, from_run, weights_sha256
from lrm_lightning.models import ResNet
from lrm_lightning.runs.networks import load_model

MODULE = """
import torch
from torch import nn

executed = []

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

def five():
    return 5

def fails():
    raise RuntimeError("no such network")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """An importable module of somebody's."""
    (tmp_path / "somebodys.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    return "somebodys"


def test_run_is_described(make_run, tmp_path, monkeypatch):
    folder = make_run("regular-0a1b2c3d")
    monkeypatch.chdir(tmp_path)
    subject = from_run(folder)
    described = subject.as_dict()
    sha = described.pop("weights_sha256")
    assert described == {
        "name": "regular",
        "label": "regular-0a1b2c3d",
        "run_dir": "runs/regular-0a1b2c3d",
        "run_id": "0a1b2c3d",
        "checkpoint": "last",
    }
    assert sha == weights_sha256(load_model(folder))
    assert subject.home == folder
    assert not subject.network.training


def test_hash_is_of_the_numbers_not_of_their_layout():
    torch.manual_seed(0)
    network = ResNet(depth=1, widths=(4, 4, 8, 8))
    before = weights_sha256(network)
    assert weights_sha256(network.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        network.linear.bias[0] += 1e-7
    assert weights_sha256(network) != before


def test_patterns(make_run, tmp_path):
    one, two = make_run("a-1"), make_run("b-2")
    make_run("c-3", finished=False)
    (tmp_path / "runs" / "transfer.json").write_text("{}")
    assert find_runs([str(tmp_path / "runs" / "*")]) == [one, two]
    assert find_runs([str(two), str(tmp_path / "runs" / "*")]) == [two, one]
    assert find_runs(str(one)) == [one]
    assert find_runs([]) == []


def test_missing_runs(make_run, tmp_path):
    with pytest.raises(UserError, match=r"no run in .*nowhere: config.yaml is missing"):
        find_runs([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"sources: no finished run matches .*nothing/\*"):
        find_runs([str(tmp_path / "nothing" / "*")], key="sources")
    unfinished = make_run("c-3", finished=False)
    with pytest.raises(UserError, match=r"the run .*c-3 is not finished"):
        find_runs([str(unfinished)])


def test_checkpoint_of_another_shape(make_run):
    folder = make_run("a-1", network={"widths": [4, 4, 8, 16]})
    with pytest.raises(
        UserError, match=r"last\.ckpt does not fit the network: .*size mismatch"
    ) as told:
        from_run(folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", ["state", "wrapped", "safetensors"])
def test_network_from_elsewhere(module, tmp_path, kind):
    torch.manual_seed(0)
    weights = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights if kind == "state" else {"state_dict": weights, "epoch": 3}, path)
    subject = from_outside(f"{module}:linear", weights=str(path), name="mine", out=tmp_path / "out")
    assert torch.equal(subject.network.state_dict()["1.weight"], weights["1.weight"])
    assert (subject.label, subject.checkpoint, subject.run_dir) == ("mine", path.name, "")
    assert subject.home == tmp_path / "out" / "mine"


def test_weights_execute_nothing(module, tmp_path):
    class Harm:
        def __reduce__(self):
            return (exec, ("import somebodys; somebodys.executed.append(1)",))

    torch.save({"1.weight": Harm()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="damaged or not a plain state dict"):
        from_outside(
            f"{module}:linear", weights=str(tmp_path / "weights.pt"), name=None, out=tmp_path
        )
    assert sys.modules[module].executed == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("linear", "must be an import path, package.module:function"),
        ("nowhere_at_all:linear", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("somebodys:cubic", "AttributeError: .*cubic"),
        ("somebodys:fails", "RuntimeError: no such network"),
        ("somebodys:five", "returned a int, not a torch.nn.Module"),
    ],
)
def test_wrong_import_path(module, tmp_path, model, message):
    with pytest.raises(UserError, match=message):
        from_outside(model, weights=None, name=None, out=tmp_path)


def test_wrong_weights(module, tmp_path):
    def load(content):
        torch.save(content, tmp_path / "weights.pt")
        from_outside(
            f"{module}:linear", weights=str(tmp_path / "weights.pt"), name=None, out=tmp_path
        )

    with pytest.raises(UserError, match=r"does not fit the network: .*size mismatch for 1.weight"):
        load({"1.weight": torch.zeros(10, 12), "1.bias": torch.zeros(10)})
    with pytest.raises(UserError, match=r"does not fit the network: .*Missing key"):
        load({"1.bias": torch.zeros(10)})
    with pytest.raises(UserError, match="holds epoch, model instead of tensors"):
        load({"epoch": 3, "model": {}})
    with pytest.raises(UserError, match="there is no such file"):
        from_outside(f"{module}:linear", weights=str(tmp_path / "no.pt"), name=None, out=tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"\x00")
    with pytest.raises(UserError, match="damaged"):
        from_outside(
            f"{module}:linear", weights=str(tmp_path / "bad.safetensors"), name=None, out=tmp_path
        )


@pytest.mark.parametrize("name", ["a/b", "..", "/etc"])
def test_name_must_be_a_folders(module, tmp_path, name):
    with pytest.raises(UserError, match="name of a folder"):
        from_outside(f"{module}:linear", weights=None, name=name, out=tmp_path)


TRAINED = {"attack": {"norm": "l2", "eps": 0.5, "step_size": 0.3, "steps": 3}}
NOTHING = {"norm": None, "eps": None, "step_size": None}


def test_threat_is_as_trained_with_the_papers_step():
    threat = threat_model(TRAINED, NOTHING)
    assert (threat.norm, threat.eps, threat.step_size) == ("l2", 0.5, 0.13)
    threat = threat_model({}, NOTHING)
    assert (threat.norm, threat.eps, threat.step_size) == ("linf", 0.03, 0.0078)
    threat = threat_model(TRAINED, {"norm": "linf", "eps": 0.1, "step_size": 0.02})
    assert (threat.norm, threat.eps, threat.step_size) == ("linf", 0.1, 0.02)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": 0}, "attack.eps=0 must be"),
        ({"eps": "far"}, "attack.eps='far' must be"),
        ({"norm": "l7"}, "attack.norm='l7' is unknown"),
        ({"step_size": -1}, "attack.step_size=-1 must be"),
    ],
)
def test_wrong_threat(given, message):
    with pytest.raises(UserError, match=message):
        threat_model({}, NOTHING | given)


def test_data_are_as_trained_unless_told_otherwise():
    trained = {
        "data": {
            "_target_": "lrm_lightning.data.CIFAR10DataModule",
            "name": "cifar10",
            "root": "here",
            "require_official": False,
            "batch_size": 3,
        }
    }
    nothing = {"name": None, "root": None, "require_official": None}
    settings = data_settings(trained, nothing)
    assert settings == {
        "_target_": "lrm_lightning.data.CIFAR10DataModule",
        "root": "here",
        "require_official": False,
        "download": True,
    }
    assert data_settings(trained, nothing | {"root": "there"})["root"] == "there"
    digits = {"_target_": "lrm_lightning.data.DigitsDataModule"}
    assert data_settings(trained, nothing | {"name": "digits", "root": "there"}) == digits
    assert data_settings({}, nothing)["require_official"] is True
    with pytest.raises(UserError, match=r"data.name=mnist is unknown; choose one of: .*digits"):
        data_settings({}, nothing | {"name": "mnist"})


@pytest.mark.parametrize("target", ["os.system", "lrm_lightning.data.digits.torch.nn.Linear", "x"])
def test_data_of_others_are_refused(target):
    with pytest.raises(UserError, match="not this package's"):
        load_data({"_target_": target})


def test_wrong_device():
    with pytest.raises(UserError, match="device='tpu' is unknown"):
        choose_device("tpu")
    assert choose_device("cpu") == torch.device("cpu")
