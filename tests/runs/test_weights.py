"""The layouts in which public checkpoints hold their weights."""

import argparse
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from lrm_lightning.errors import UserError
from lrm_lightning.runs.weights import fill


def _network(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)))


def _renamed(prefix):
    return lambda state: {prefix + name: each for name, each in state.items()}


LAYOUTS = {
    "alone": lambda state: state,
    "numbers": lambda state: {"net": state, "acc": np.float64(0.9), "seen": [np.int64(7)]},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}},
    "net": lambda state: {"net": state, "acc": 93.1},
    "model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.ones(())},
    "model_state": lambda state: {"model_state": state, "optimizer_state": {}, "epoch": 9},
    "ema": lambda state: {"ema": _renamed("module.")(state), "step": torch.tensor(7)},
    "model.": _renamed("model."),
    "lightning of a model": lambda state: {"state_dict": _renamed("model.")(state), "epoch": 1},
    "twice": lambda state: {"net": {"model_state_dict": _renamed("module.model.")(state)}},
    "nested": lambda state: {"model": {"state_dict": state, "name": "wrn"}, "step": 7},
    "module": _renamed("module."),
    "compiled": _renamed("_orig_mod."),
    "both": _renamed("module._orig_mod."),
    "within": lambda state: {"net": _renamed("module.")(state)},
    "lightning": lambda state: {"state_dict": _renamed("network.")(state), "loops": {}},
    "half": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout, tmp_path):
    trained, network = _network(0), _network(1)
    path = tmp_path / "weights.pt"
    torch.save(LAYOUTS[layout](trained.state_dict()), path)
    fill(network, path)
    for name, each in trained.state_dict().items():
        expected = each.half().float() if layout == "half" and "weight" in name else each
        found = network.state_dict()[name]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 if layout == "half" else 0)


def test_safetensors(tmp_path):
    trained, network = _network(0), _network(1)
    safetensors.torch.save_file(
        _renamed("module.")(trained.state_dict()), tmp_path / "a.safetensors"
    )
    fill(network, tmp_path / "a.safetensors")
    assert torch.equal(network.conv.weight, trained.conv.weight)


def _without(state, name):
    return {key: each for key, each in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"fc.weight": torch.ones(1)}, "the network: unexpected keys fc.weight$"),
        (lambda s: _without(s, "bn.bias"), "the network: missing keys bn.bias$"),
        (
            lambda s: _renamed("module.")(s) | {"n_averaged": torch.ones(())},
            "unexpected keys module.bn.bias, .* and 4 more; missing keys bn.bias, .* and 3 more$",
        ),
        (lambda s: s | {"bn.bias": torch.ones(5)}, "size mismatch for bn.bias"),
        (lambda s: {"net": s, "args": argparse.Namespace(lr=1)}, "holds a argparse.Namespace"),
        (lambda s: {"weights": s, "epoch": 3}, "holds weights, epoch instead of tensors"),
        (lambda s: nn.Sequential(nn.Linear(1, 1)), r"holds a torch\.nn\.\S*Sequential, which is"),
    ],
)  # fmt: skip
def test_refused(change, message, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(change(_network(0).state_dict()), path)
    with pytest.raises(UserError, match=message) as error:
        fill(_network(1), path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
