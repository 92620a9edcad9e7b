"""Networks without a gradient from the command line, and their stand-ins."""

import hashlib
import sys

import pytest

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.tables import print_evaluations

NETWORKS = """
import torch
from torch import nn

class Hard(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))

    def forward(self, x):
        return self.linear((x > 0.5).float())

def soft(network):
    return nn.Sequential(nn.Identity(), network.linear)

def narrow(network):
    return nn.Flatten()

def texts(network):
    return "soft"
"""
SUITE = ("suite=strong", "n_images=30", "suite.pgd_steps=3", "suite.square_queries=5")


@pytest.fixture
def hard(evaluated, tmp_path, monkeypatch):
    """``hard(*overrides)`` evaluates a network from whose logits no gradient flows."""
    (tmp_path / "hardened.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hardened", raising=False)
    settings = (f"out={tmp_path / 'kept'}", *SUITE, "data.name=digits", "device=cpu")
    return lambda *more: evaluated("network=hardened:Hard", *settings, *more)


def test_a_network_without_a_gradient_is_recorded_as_masked(hard, capsys):
    (record,) = hard()
    assert set(record.metrics) == {"clean", "square", "worst"}
    assert record.impossible["pgd_ce"] == "no gradient flows from the logits to the pixels"
    assert record.masking.verdict == "masked"
    print_evaluations([record])
    assert "PGD, APGD and FAB are impossible" in capsys.readouterr().out
    assert record.code == {"hardened": hashlib.sha256(NETWORKS.encode()).hexdigest()}
    (other,) = hard("surrogate=hardened:soft")
    assert set(other.metrics) == {"clean", "square", "bpda", "worst"}
    assert other.evaluation_id != record.evaluation_id


def test_finite_differences_need_no_stand_in(hard, capsys):
    name = "lrm_lightning.attacks.wrappers:FiniteDifferences"
    (record,) = hard(f"surrogate={name}", "suite.pgd_restarts=1")
    told = "at most 5 passes forward alone, 9 through the stand-in; 30 images at most"
    assert told in capsys.readouterr().out
    assert set(record.metrics) == {"clean", "square", "bpda", "worst"}
    assert record.settings["bpda"] == {"surrogate": name}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hardened:narrow", "surrogate=hardened:narrow: the model knows 3072 classes"),
        ("hardened:texts", "surrogate=hardened:texts returned a str, not a torch.nn.Module"),
        ("hardened:absent", "surrogate=hardened:absent: AttributeError"),
        ("hardened", "surrogate=hardened must be an import path"),
    ],
)
def test_a_stand_in_that_cannot_be_used(hard, name, message):
    with pytest.raises(UserError, match=f"^{message}|: {message}") as error:
        hard(f"surrogate={name}")
    assert len(str(error.value).splitlines()) == 1
