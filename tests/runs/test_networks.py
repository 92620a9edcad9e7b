"""From a run directory back to a network, and nothing else: no code of a stranger runs."""

import json
import os
import pickle
import re
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

import lrm_lightning
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.foreign import load_foreign
from lrm_lightning.models import ResNet
from lrm_lightning.runs.directory import RunDir
from lrm_lightning.runs.networks import (
    load_model,
    load_run,
    load_runs,
    weights_sha256,
)
from lrm_lightning.runs.settings import read_settings, write_settings

SETTINGS = {
    "_target_": "lrm_lightning.models.ResNet",
    "depth": 1,
    "widths": [4, 4, 4, 4],
    "num_classes": 5,
}


def _network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNet(depth=1, widths=(4, 4, 4, 4), num_classes=5)
        network(torch.rand(8, 3, 8, 8))  # batch norm has seen something
    return network


def _state(network):
    return {f"network.{name}": value for name, value in network.state_dict().items()}


def _save(folder, network, name="last"):
    state = _state(network) | {"unrelated": torch.zeros(2)}
    torch.save({"state_dict": state, "epoch": 3}, folder / "checkpoints" / f"{name}.ckpt")


@pytest.fixture
def run(tmp_path):
    """A run directory whose last and best weights differ."""
    directory = RunDir(tmp_path / "run", {"seed": 0})
    directory.write_config({"checkpoint": {"select": "last"}}, SETTINGS)
    _save(directory.path, _network(0), "last")
    _save(directory.path, _network(1), "best")
    return directory.path


def _edit(run, **network):
    saved = read_settings(run / "config.yaml")
    saved["network"] |= network
    write_settings(run / "config.yaml", saved)


def _logits(network):
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return network(x)


def _refused(run, **arguments):
    """The one line that says why."""
    with pytest.raises(UserError) as error:
        load_model(run, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("checkpoint", "seed"), [(None, 0), ("last", 0), ("best", 1)])
def test_same_logits_in_eval_mode(checkpoint, seed, run):
    network = load_model(run, checkpoint=checkpoint)
    assert not any(module.training for module in network.modules())
    torch.testing.assert_close(_logits(network), _logits(_network(seed).eval()))
    assert _logits(network).shape == (4, 5)


def test_the_weights_that_were_tested_are_the_default(run):
    saved = read_settings(run / "config.yaml")
    saved["config"]["checkpoint"]["select"] = "best"
    write_settings(run / "config.yaml", saved)
    torch.testing.assert_close(_logits(load_model(str(run))), _logits(_network(1).eval()))


def test_is_the_packages_own_function(run):
    assert lrm_lightning.load_model is load_model


def test_network_of_somebody_else(run):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 5)

        def forward(self, x):
            return self.linear(x.mean((2, 3)))

    mine = Mine()
    _edit(run, _target_="mine.Network")
    _save(run, mine)
    loaded = load_model(run, network=Mine())
    torch.testing.assert_close(_logits(loaded), _logits(mine))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.nn.Linear",
        "lrm_lightning.modelsx.ResNet",
        "lrm_lightning.methods.PGDTraining",
        "lrm_lightning.models",
        "lrm_lightning.models.Nothing",
        "lrm_lightning.models.",
        "",
        # ways from a module of ours into what it imports
        "lrm_lightning.runs.networks.torch.os.system",
        "lrm_lightning.runs.networks.load_model",
        "lrm_lightning.models.resnet.nn.Linear",
        "lrm_lightning.runs.networks.Path",
    ],
)
def test_untrusted_network_is_refused(target, run):
    _edit(run, _target_=target)
    assert f"names the network {target}, which is not this package's" in _refused(run)


def test_untrusted_call_is_not_made(run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "system", lambda *args, **kwargs: calls.append((args, kwargs)))
    path = run / "config.yaml"
    whole = read_settings(path)
    call = {"_target_": "os.system", "_args_": ["touch here"], "command": "touch here"}
    for network in (
        call,
        {"_target_": "lrm_lightning.runs.networks.torch.os.system", "command": "touch here"},
        SETTINGS | {"depth": call},
        SETTINGS | {"widths": [call] * 4},
    ):
        write_settings(path, whole | {"network": network})
        _refused(run)
    assert calls == []


def test_yaml_cannot_run_code(run, tmp_path):
    text = f"network: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n"
    (run / "config.yaml").write_text(text)
    assert "is damaged" in _refused(run)
    assert not (tmp_path / "made").exists()


class _Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["torch", "pickle", "beside the weights"])
def test_pickle_in_a_checkpoint_is_not_executed(way, run, tmp_path):
    bomb, path = _Bomb(tmp_path / "made"), run / "checkpoints" / "last.ckpt"
    if way == "torch":
        torch.save({"state_dict": bomb}, path)
    elif way == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": bomb}))
    else:
        torch.save({"state_dict": _state(_network()), "callbacks": bomb}, path)
    message = _refused(run)
    assert "is damaged" in message if way == "pickle" else "holds a posix.mkdir, which" in message
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {"weights": 1},
        {"state_dict": None},
        {"state_dict": [1]},
        {"state_dict": {}},
        {"state_dict": {"network.stem.weight": 1}},
        {"state_dict": {1: torch.zeros(1)}},
        {"state_dict": {"other.stem.weight": torch.zeros(1)}},
    ],
    ids=str,
)
def test_checkpoint_without_our_weights(content, run):
    torch.save(content, run / "checkpoints" / "last.ckpt")
    assert str(run / "checkpoints" / "last.ckpt") in _refused(run)


def test_damaged_checkpoint(run):
    path = run / "checkpoints" / "last.ckpt"
    whole = path.read_bytes()
    config = run / "config.yaml"
    write_settings(config, read_settings(config) | {"run_id": "0a1b2c3d"})
    for content in (b"", b"garbage", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        why = "it is damaged or holds something else than tensors; train the run with rerun=true"
        assert _refused(run) == f"checkpoint {path}: {why}"


def test_missing_checkpoint(run):
    (run / "checkpoints" / "last.ckpt").unlink()
    best = "the run has checkpoint=best alone; give that"
    assert re.match(rf"checkpoint .*last\.ckpt is missing; {best}", _refused(run))
    assert "nothing.ckpt is missing" in _refused(run, checkpoint="nothing")
    (run / "checkpoints" / "best.ckpt").unlink()
    assert _refused(run).endswith("last.ckpt is missing; the run has not finished its first epoch")
    (run / "record.json").touch()
    assert _refused(run).endswith("last.ckpt is missing; train the run with rerun=true")
    assert _refused(run / "config.yaml").endswith(
        "config.yaml is a file; give the folder of the run or of the export"
    )


def test_weights_of_another_shape(run):
    _edit(run, num_classes=7)
    message = _refused(run)
    assert "last.ckpt does not fit the network" in message
    assert "linear" in message


@pytest.mark.parametrize(
    "arguments", [{"depth": 0}, {"depth": "two"}, {"widths": 4}, {"colour": "red"}]
)
def test_arguments_that_no_network_takes(arguments, run):
    _edit(run, **arguments)
    assert "is damaged" in _refused(run)


def test_missing_run(tmp_path):
    assert f"no run in {tmp_path / 'nothing'}" in _refused(tmp_path / "nothing")


@pytest.mark.parametrize(
    "content",
    [b"", b"network: [", b"\xff\xfe\x00", b"[]", b"network: {}", b"network: 3\nconfig: {}",
     b"network: {a: 1}\nconfig: {}", b"network: {a: 1}\nconfig: {checkpoint: last}"],
)  # fmt: skip
def test_damaged_config(content, run):
    (run / "config.yaml").write_bytes(content)
    assert "is damaged" in _refused(run)


# -------------------------------------------------------------- for evaluations


def test_run_is_described(make_run, tmp_path, monkeypatch):
    folder = make_run("regular-0a1b2c3d")
    monkeypatch.chdir(tmp_path)
    loaded = load_run(folder)
    assert loaded.about.model_dump() == {
        "name": "regular",
        "label": "regular-0a1b2c3d",
        "run_dir": "runs/regular-0a1b2c3d",
        "run_id": "0a1b2c3d",
        "checkpoint": "last",
        "weights_sha256": weights_sha256(load_model(folder)),
    }
    assert loaded.folder == folder
    assert not loaded.module.training


def test_a_checkpoint_of_other_weights_than_the_run_recorded_is_refused(make_run):
    folder = make_run()
    record, sha256 = (
        json.loads((folder / "record.json").read_text()),
        weights_sha256(load_model(folder)),
    )
    (folder / "record.json").write_text(json.dumps(record | {"weights": {"last": sha256}}))
    assert load_run(folder).about.weights_sha256 == sha256
    (folder / "record.json").write_text(json.dumps(record | {"weights": {"last": "0" * 64}}))
    with pytest.raises(
        UserError, match=r"last\.ckpt has changed since its run ended; train the run"
    ):
        load_run(folder)


def test_hash_is_of_the_numbers_not_of_their_layout():
    network = _network()
    before = weights_sha256(network)
    assert weights_sha256(network.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        network.linear.bias[0] += 1e-7
    assert weights_sha256(network) != before


def test_patterns(make_run, tmp_path, capsys):
    one, two = make_run("a-1"), make_run("b-2")
    unfinished = make_run("c-3", finished=False)
    foreign = make_run("d-4")
    _edit(foreign, _target_="mine.Network")
    (tmp_path / "runs" / "transfer.json").write_text("{}")
    pattern = str(tmp_path / "runs" / "*")

    def found(*patterns):
        return [each.folder for each in load_runs(patterns)]

    assert found(pattern) == [one, two]
    skipped = capsys.readouterr().err.splitlines()
    assert len(skipped) == 2
    assert skipped[0].startswith(f"skipped: the run {unfinished} is not finished")
    assert skipped[1].startswith(f"skipped: {foreign} names the network mine.Network")
    assert found(str(two), pattern) == [two, one]
    assert found(str(one)) == [one]
    assert found() == []
    for pattern, message in (
        ("nowhere", r"no run in .*nowhere: config.yaml is missing"),
        ("nothing/*", r"sources=.*nothing/\*: no finished run matches it"),
        ("runs/c-*", r"sources=.*runs/c-\*: nothing that matches it can be used"),
        ("runs/d-*", r"sources=.*runs/d-\*: nothing that matches it can be used"),
        ("runs/c-3", r"the run .*c-3 is not finished"),
        ("runs/d-4", r"names the network mine\.Network"),
    ):
        with pytest.raises(UserError, match=message):
            load_runs([str(tmp_path / pattern)], key="sources")


def test_a_path_that_is_there_is_no_pattern(make_run):
    one = make_run("[s=0]")
    make_run("s")
    assert [each.folder for each in load_runs([str(one)])] == [one]
    assert [each.folder.name for each in load_runs([str(one.parent / "[s]")])] == ["s"]


MODULE = """
from torch import nn

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

def five():
    return 5

def fails():
    raise RuntimeError("no such network")
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """``foreign()``: loads a network of a module of somebody's."""
    (tmp_path / "somebodys.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)

    def load(target="somebodys:linear", *, weights=None, name=None):
        weights = weights and str(tmp_path / weights)
        return load_foreign(target, weights=weights, name=name, out=tmp_path / "out")

    return load


@pytest.mark.parametrize("kind", ["state", "wrapped", "safetensors"])
def test_foreign_network(foreign, tmp_path, kind):
    torch.manual_seed(0)
    weights = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).state_dict()
    name = "weights.safetensors" if kind == "safetensors" else "weights.pt"
    if kind == "safetensors":
        safetensors.torch.save_file(weights, tmp_path / name)
    else:
        torch.save(
            weights if kind == "state" else {"state_dict": weights, "epoch": 3}, tmp_path / name
        )
    loaded = foreign(weights=name, name="mine")
    assert torch.equal(loaded.module.state_dict()["1.weight"], weights["1.weight"])
    about = loaded.about
    assert (about.label, about.checkpoint, about.run_dir) == ("mine", name, "")
    assert loaded.folder == tmp_path / "out" / "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "linear"}, "must be an import path, package.module:function"),
        ({"target": "nowhere_at_all:linear"}, "ModuleNotFoundError: .*'nowhere_at_all'"),
        ({"target": "somebodys:cubic"}, "AttributeError: .*cubic"),
        ({"target": "somebodys:fails"}, "RuntimeError: no such network"),
        ({"target": "somebodys:five"}, "returned a int, not a torch.nn.Module"),
        ({"name": "a/b"}, "name of a folder"),
        ({"name": ".."}, "name of a folder"),
        ({"weights": "no.pt"}, "there is no such file"),
    ],
)
def test_wrong_foreign_network(foreign, arguments, message):
    with pytest.raises(UserError, match=message):
        foreign(**arguments)


def test_wrong_weights(foreign, tmp_path):
    state = {"1.weight": torch.zeros(10, 12), "1.bias": torch.zeros(10)}
    for content, message in (
        (state, r"does not fit the network: .*size mismatch for 1.weight"),
        ({"1.bias": torch.zeros(10)}, r"does not fit the network: missing keys 1\.weight$"),
        ({"epoch": 3, "weights": {}}, "holds epoch, weights instead of tensors"),
        ({"1.weight": _Bomb(tmp_path / "made")}, "holds a posix.mkdir, which is refused"),
    ):
        torch.save(content, tmp_path / "weights.pt")
        with pytest.raises(UserError, match=message):
            foreign(weights="weights.pt")
    assert not (tmp_path / "made").exists()
    (tmp_path / "bad.safetensors").write_bytes(b"\x00")
    with pytest.raises(UserError, match="damaged"):
        foreign(weights="bad.safetensors")
