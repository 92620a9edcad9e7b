"""``init_from``: a run that starts from trained weights says so, and goes on without them."""

import hashlib
import json

import pytest
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.export import export_model
from lrm_lightning.models import ResNet
from lrm_lightning.runs import identity
from lrm_lightning.training.run import train

# One epoch in which no weight moves by more than rounding.
STILL = ("method=regular", "trainer.max_epochs=1", "optimizer.lr=1e-20", "optimizer.momentum=0")


@pytest.fixture
def start(composed, small, tmp_path):
    """``start(*overrides)``: train in ``tmp_path/run``."""

    def run(*overrides, folder="run"):
        train(composed("config", *small, *STILL, *overrides), tmp_path / folder)
        return json.loads((tmp_path / folder / "record.json").read_text())

    return run


@pytest.fixture
def weights(tmp_path):
    """A file of somebody's with the weights of a network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        state = ResNet(depth=1, widths=(4, 4, 8, 8)).state_dict()
    named = {f"module.{name}": each for name, each in state.items()}
    torch.save({"net": named, "epoch": 3}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt", state


def _state(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def _assert_starts_from(folder, state):
    found = _state(folder)
    for name, each in state.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(found[f"network.{name}"], each, rtol=0, atol=1e-15)


def test_a_file_of_weights_and_how_a_run_goes_on(start, weights, tmp_path):
    path, state = weights
    record = start(f"init_from={path}")
    _assert_starts_from(tmp_path / "run", state)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["init_from"] == {"path": str(path), "sha256": sha256}
    assert record["config"]["init_from"] == str(path)

    start(f"init_from={path}")  # finished
    whole = path.read_bytes()
    for again in ("finished", "resumed"):
        path.write_bytes(whole[:-1] + b"x")
        with pytest.raises(
            UserError, match=r"^init_from=.* has other weights now than the run beg"
        ):
            start(f"init_from={path}")
        path.unlink()
        resumed = start(f"init_from={path}")
        assert resumed["metrics"] == record["metrics"], again
        assert resumed["init_from"] == record["init_from"]
        (tmp_path / "run/record.json").unlink()


def test_a_run_and_an_export(start, tmp_path):
    first = start("seed=3", folder="first")
    export_model(tmp_path / "first", tmp_path / "exported")
    names = {"first": "checkpoints/last.ckpt", "exported": "model.safetensors"}
    for source, file in names.items():
        record = start(f"init_from={tmp_path / source}", folder=f"from-{source}")
        state = {k.removeprefix("network."): v for k, v in _state(tmp_path / "first").items()}
        _assert_starts_from(tmp_path / f"from-{source}", state)
        sha256 = hashlib.sha256((tmp_path / source / file).read_bytes()).hexdigest()
        assert record["init_from"]["sha256"] == sha256
        assert record["run_id"] != first["run_id"]
    (tmp_path / "first/record.json").unlink()
    with pytest.raises(UserError, match=r"^init_from=.*first: the run is not finished"):
        start(f"init_from={tmp_path / 'first'}", folder="another")


def test_what_cannot_be_started_from(start, weights, tmp_path):
    path, _ = weights
    cases = (
        (["init_from=nowhere.pt"], "init_from=nowhere.pt: there is no such run, export or file"),
        ([f"init_from={tmp_path}"], "no run in "),
        (
            [f"init_from={path}", "model.depth=2"],
            "does not fit the network: unexpected keys module",
        ),
        (["init_from=[1]"], r"init_from=\[1\] must be text"),
    )
    for number, (overrides, message) in enumerate(cases):
        with pytest.raises(UserError, match=message):
            start(*overrides, folder=f"run-{number}")
    assert not [*tmp_path.rglob("record.json"), *tmp_path.rglob("*.ckpt")]


def test_runs_without_it_are_the_runs_that_they_were(composed):
    cfg = composed("config", "data=digits")
    assert "init_from" in cfg
    assert "init_from" not in identity.identity(cfg)
    ids = {identity.run_id(composed("config", f"init_from={each}")) for each in ("null", "a", "b")}
    assert len(ids) == 3


def test_the_file_of_arrays_identifies_them_and_the_folder_of_others_does_not(composed):
    for data, count in (("arrays", 2), ("cifar100", 1), ("svhn", 1)):
        configs = (composed("config", f"data={data}", f"data.root={each}") for each in "ab")
        assert len({identity.run_id(cfg) for cfg in configs}) == count
