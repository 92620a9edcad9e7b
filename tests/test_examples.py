"""The examples do what they say."""

import importlib.util
import json
import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from lrm_lightning.attacks import fgsm
from lrm_lightning.data import DigitsDataModule
from lrm_lightning.evaluation.foreign import load_foreign
from lrm_lightning.export import export_model
from lrm_lightning.runs.networks import load_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_export_is_attacked_with_foolbox_and_autoattack(make_run, tmp_path):
    pytest.importorskip("foolbox")
    attack = example("attack_exported")
    network = load_model(export_model(make_run(), tmp_path / "exported"))
    x, y = attack.images(20)
    datamodule = DigitsDataModule()
    datamodule.setup()
    assert torch.equal(y, datamodule.test_dataloader().split.labels[:20])
    with torch.no_grad():
        clean = float((network(x).argmax(dim=1) == y).float().mean())
    pgd = attack.with_foolbox(network, x, y, 0.1)
    worst = attack.with_autoattack(network, x, y, 0.1, queries=10)
    assert 0 <= worst <= pgd < clean
    # What holds in a small ball is attacked by all of the ensemble.
    assert attack.with_autoattack(network, x[:3], y[:3], 0.005, queries=10) > 0


@pytest.mark.parametrize("name", ["attack_exported", "external_model"])
def test_without_arguments_it_says_its_usage(name, monkeypatch):
    pytest.importorskip("foolbox")
    monkeypatch.setattr("sys.argv", [name])
    with pytest.raises(SystemExit, match=f"^usage: python -m examples.{name} "):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_network_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    external = example("external_model")
    with torch.random.fork_rng(devices=[]):
        trained = external.train(epochs=2)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    target = "examples.external_model:small_cnn"
    loaded = load_foreign(target, weights=str(tmp_path / "weights.pt"), name=None, out=tmp_path)
    datamodule = DigitsDataModule(eval_batch_size=360)
    datamodule.setup()
    batch = next(iter(datamodule.test_dataloader()))
    with torch.no_grad():
        logits = loaded.module(batch.x)
        assert torch.equal(logits, trained(batch.x))
    assert (logits.argmax(dim=1) == batch.y).float().mean() > 0.8
    assert loaded.about.label == "small_cnn"


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_a_lightning_module_of_somebody_elses():
    foreign = example("foreign_lightning")
    source = (EXAMPLES / "foreign_lightning.py").read_text()
    assert set(re.findall(r"^from lrm_lightning\S* import (.*)$", source, re.MULTILINE)) == {
        "PGDAttack",
        "RobustAccuracy",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = foreign.Digits()
        logged = foreign.train(module, epochs=2)
    _, loader = foreign.loaders()
    x, y = (torch.cat(each)[:200] for each in zip(*loader, strict=True))
    with torch.no_grad():
        clean = (module.eval()(x).argmax(dim=1) == y).float().mean()
    assert logged["val/acc/clean"] == pytest.approx(float(clean))
    x_adv = fgsm(module, x, y, eps=0.1)
    with torch.no_grad():
        attacked = (module(x_adv).argmax(dim=1) == y).float().mean()
    assert logged["val/acc/fgsm"] == pytest.approx(float(attacked))
    assert logged["val/acc/pgd10"] <= logged["val/acc/pgd1"] < logged["val/acc/clean"]
    assert "val/loss" in logged


def test_the_notebook_trains_attacks_and_draws():
    plt.switch_backend("Agg")
    plt.close("all")
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(cell["source"]), shown)
            if "parameters" in cell["metadata"].get("tags", ()):
                shown |= {"epochs": 1, "limit_train_batches": 2, "n_images": 20}
    x = shown["batch"].x
    first, second = (each.state_dict() for each in shown["networks"].values())
    assert not torch.equal(first["linear.weight"], second["linear.weight"])
    for name, network in shown["networks"].items():
        path = shown["found"][name]
        with torch.no_grad():
            assert torch.equal(network(x).argmax(dim=1), path.logits.argmax(dim=1))
        assert (path.iterates[50].x_adv - x).abs().max() <= 0.1 + 1e-6
    curves, images = (plt.figure(number).axes for number in plt.get_fignums())
    assert [len(line.get_xdata()) for line in curves[0].lines] == [7, 7]
    assert len(images) == 16
    plt.close("all")
