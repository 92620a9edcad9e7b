"""Networks from elsewhere: what they want of the pixels, and what they return."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.foreign import load_foreign, picked

NETWORKS = """
from collections import namedtuple
from types import SimpleNamespace
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 5)

    def forward(self, x):
        return self.linear(x.flatten(1))

class Tuple(Plain):
    def forward(self, x):
        return super().forward(x), x.mean()

class Second(Plain):
    def forward(self, x):
        return [x, super().forward(x)]

class Dict(Plain):
    def forward(self, x):
        return {"features": x, "logits": super().forward(x)}

class Object(Plain):
    def forward(self, x):
        return SimpleNamespace(loss=None, logits=super().forward(x))

class Named(Plain):
    def forward(self, x):
        return namedtuple("Found", "logits loss")(super().forward(x), None)
"""
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
NORMALIZED = (f"mean={MEAN}", f"std={STD}")
OUTPUTS = {
    "Plain": None,
    "Tuple": 0,
    "Second": 1,
    "Dict": "logits",
    "Object": "logits",
    "Named": "logits",
}
RENAMED = {
    "bare": "",
    "module.": "module.",
    "model.": "model.",
    "_orig_mod.": "_orig_mod.",
    "both": "module._orig_mod.",
}
NESTED = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "net": lambda state: {"net": state, "acc": 93.1},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "model_state": lambda state: {"model_state": state},
    "ema": lambda state: {"ema": state},
    "twice": lambda state: {"model": {"state_dict": state}, "args": {"lr": 0.1}},
}
SMALL = ("suite=paper", "suite.steps=3", "suite.table=[3]", "suite.logits_at=1", "attack.eps=0.1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module of networks, images in a file, and weights."""
    (tmp_path / "somebodys.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 5
    np.savez(tmp_path / "my.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    torch.save(_state(), tmp_path / "weights.pt")
    return tmp_path


def _linear():
    """The only layer of each of the networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(192, 5).requires_grad_(False)


def _state():
    return {f"linear.{name}": each for name, each in _linear().state_dict().items()}


def _expected(x, mean=MEAN, std=STD):
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    return _linear()(((x - mean) / std).flatten(1))


@pytest.mark.parametrize("kind", OUTPUTS)
def test_kind_of_output(kind, folder, evaluated):
    network = (f"network=somebodys:{kind}", f"weights={folder / 'weights.pt'}", f"out={folder}")
    output = [] if OUTPUTS[kind] is None else [f"output={OUTPUTS[kind]}"]
    data = ("data=arrays", f"data.root={folder / 'my.npz'}")
    (record,) = evaluated(*network, *SMALL, *data, *NORMALIZED, *output)
    images = np.load(folder / "my.npz")
    x = torch.from_numpy(images["x_test"]).permute(0, 3, 1, 2) / 255
    right = _expected(x).argmax(dim=1).numpy() == images["y_test"]
    assert record.metrics["clean"] == right.mean()
    assert record.metrics["pgd3"] <= record.metrics["fgsm"] <= record.metrics["clean"]
    assert record.attack["eps"] == 0.1
    target = f"somebodys:{kind}"
    told = {"mean": MEAN, "std": STD, "output": OUTPUTS[kind]}
    found = load_foreign(target, weights=str(folder / "weights.pt"), **told).module(x)
    torch.testing.assert_close(found, _expected(x))


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("prefix", RENAMED)
def test_names_with_a_prefix(prefix, kind, folder):
    state = {RENAMED[prefix] + name: each for name, each in _state().items()}
    path = folder / f"weights.{kind}"
    if kind == "pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = load_foreign("somebodys:Plain", weights=str(path)).module.state_dict()
    assert all(torch.equal(found[name], each) for name, each in _state().items())


@pytest.mark.parametrize("prefix", ["bare", "module."])
@pytest.mark.parametrize("nesting", NESTED)
def test_nested_weights(nesting, prefix, folder):
    state = {RENAMED[prefix] + name: each for name, each in _state().items()}
    torch.save(NESTED[nesting](state), folder / "weights.pt")
    found = load_foreign("somebodys:Plain", weights=str(folder / "weights.pt")).module.state_dict()
    assert all(torch.equal(found[name], each) for name, each in _state().items())


def test_what_a_network_wants_of_pixels_is_part_of_what_it_is():
    target = "somebodys:Plain"
    sys.modules["somebodys"] = SimpleNamespace(Plain=_linear)
    try:
        plain, *others = (
            load_foreign(target, **told)
            for told in ({}, {"mean": 0.5}, {"mean": 0.5, "std": 0.5}, {"output": 1})
        )
    finally:
        del sys.modules["somebodys"]
    assert len({each.about.weights_sha256 for each in (plain, *others)}) == 4
    assert isinstance(plain.module, nn.Linear)  # as it came


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("Tuple", [], r"Tuple: the model must return logits .*, not a tuple; say which part of it"),
        ("Tuple", ["std=0.5"], r"Tuple: the network returns a tuple; give output=0 or output=1$"),
        (
            "Dict",
            ["output=logit"],
            r"returns a dict, in which output=logit is no tensor; give outp",
        ),
        ("Object", ["output=loss"], r"SimpleNamespace, in which .* no tensor; give output=logits$"),
        ("Tuple", ["output=2"], r"in which output=2 is no tensor"),
        ("Plain", ["mean=[0.1,0.2]", "std=[1,1]"], "mean has 2 values, but the images have 3 chan"),
        ("Plain", ["mean=[0.1,0.2,0.3]"], "must be as long, and std positive"),
        ("Plain", ["std=0"], "std positive"),
        ("Plain", ["mean=white"], "^mean=white and std=1: "),
    ],
)
def test_one_line_says_what_is_wrong(kind, overrides, message, folder, evaluated):
    data = ("data=arrays", f"data.root={folder / 'my.npz'}", f"out={folder}")
    with pytest.raises(UserError, match=message) as error:
        evaluated(f"network=somebodys:{kind}", *SMALL, *data, *overrides)
    assert "\n" not in str(error.value)


def test_a_tensor_needs_no_choice():
    logits = torch.ones(2, 3)
    assert picked(logits, None) is logits
    assert picked(logits, "logits") is logits


def test_a_network_from_elsewhere_is_a_source_and_a_target(folder, transferred):
    data = ("data=arrays", f"data.root={folder / 'my.npz'}", "steps=2", f"out={folder / 'out'}")
    network = ("network=somebodys:Tuple", f"weights={folder / 'weights.pt'}", "output=0")
    record = transferred(*network, *data, *NORMALIZED)
    assert [each.label for each in (*record.sources, *record.targets)] == ["Tuple", "Tuple"]
    assert record.same_network == [[True]]
    assert record.n == 40
