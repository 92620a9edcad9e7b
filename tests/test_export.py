"""What an export holds, and that what comes back is the same network."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.export import export_model
from lrm_lightning.runs.networks import load_model, load_run, load_runs


@pytest.fixture
def exported(make_run, tmp_path):
    folder = make_run("regular-0a1b2c3d")
    return folder, export_model(folder, tmp_path / "exported" / "mine")


def test_same_network_bit_for_bit(exported):
    run, out = exported
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_model(out)(x), load_model(run)(x))
    assert not load_model(out).training


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in Path(__file__).parents[1].glob("results/**/model.json")),
    ids=lambda folder: folder.name,
)
def test_released_weights_load(folder):
    network = load_model(folder)  # which compares the hash
    size = {"leaderboard": 19_218}.get(folder.parent.name, 464_154)
    assert sum(parameter.numel() for parameter in network.parameters()) == size
    gray = torch.full((2, 3, 32, 32), 0.5)
    with torch.no_grad():
        assert network(gray).shape == (2, 10)


def test_nothing_of_the_machine_is_in_it(exported, tmp_path):
    _, out = exported
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.safetensors"]
    assert str(tmp_path) not in (out / "model.json").read_text()
    described = json.loads((out / "model.json").read_text())
    assert described["weights_sha256"] == load_run(out).about.weights_sha256
    assert described["network"]["_target_"] == "lrm_lightning.models.ResNet"
    assert described["training"]["run_id"] == "0a1b2c3d"
    assert described["training"]["metrics"] == {"clean": 0.9}


def test_export_is_evaluated_like_its_run(exported):
    run, out = exported
    one, other = load_run(run), load_run(out)
    assert [each.folder for each in load_runs([str(out)])] == [out]
    about = other.about
    assert about.weights_sha256 == one.about.weights_sha256
    assert (about.name, about.run_id, about.label) == ("regular", "0a1b2c3d", "mine")
    assert other.config["attack"]["eps"] == 0.1


def test_export_may_be_read_by_whom_the_umask_lets(exported):
    _, out = exported
    (out.parent / "any").touch()
    usual = (out.parent / "any").stat().st_mode
    assert {each.stat().st_mode for each in out.iterdir()} == {usual}


def test_export_over_an_export(exported):
    run, out = exported
    before = (out / "model.safetensors").read_bytes()
    assert export_model(run, out) == out
    assert (out / "model.safetensors").read_bytes() == before


def test_what_is_of_another_run_is_not_overwritten(exported, make_run):
    _, out = exported
    before = (out / "model.json").read_bytes()
    other = make_run("regular-11111111")
    with pytest.raises(UserError, match=r"mine is of another run, 0a1b2c3d; give another out="):
        export_model(other, out)
    assert (out / "model.json").read_bytes() == before
    (out / "model.json").write_text("{")  # nobody's any more
    assert export_model(other, out) == out


def test_what_cannot_be_exported(make_run, tmp_path):
    with pytest.raises(UserError, match=r"no run in .*nowhere"):
        export_model(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="is not finished"):
        export_model(make_run("a-1", finished=False), tmp_path / "out")
    with pytest.raises(UserError, match=r"best\.ckpt is missing"):
        export_model(make_run("b-2"), tmp_path / "out", checkpoint="best")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        export_model(make_run("c-3"), tmp_path / "file" / "out")


def test_damaged_export(exported):
    _, out = exported
    weights = out / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_model(out)
    state = safetensors.torch.load(content)
    weights.write_bytes(safetensors.torch.save(state | {"linear.bias": state["linear.bias"] + 1}))
    with pytest.raises(
        UserError, match=r"model\.safetensors has changed since .*; export it again"
    ):
        load_model(out)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing; export it again"):
        load_model(out)
    (out / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        load_model(out)


def test_export_that_names_foreign_code_is_refused(exported):
    _, out = exported
    described = json.loads((out / "model.json").read_text())
    described["network"] = {"_target_": "os.system", "command": "true"}
    del described["sha256"]
    (out / "model.json").write_text(json.dumps(described))
    with pytest.raises(
        UserError, match=r"names the network os\.system, which is not this package's"
    ):
        load_model(out)
