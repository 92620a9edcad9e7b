"""Images of one's own, from training to the report: one channel, 28 x 28, three classes."""

import json

import numpy as np
import pytest

from lrm_lightning.errors import UserError
from lrm_lightning.report import report
from lrm_lightning.runs.networks import load_model
from lrm_lightning.training.run import train

SMALL = (
    *("method=pgd", "model=resnet_tiny", "logger=csv", "trainer=cpu", "trainer.max_epochs=1"),
    *("data.batch_size=16", "data.val_size=8", "trainer.limit_train_batches=2", "attack.steps=1"),
    *("robust_accuracy.steps=[1]", "robust_accuracy.test_steps=[1]", "scheduler.warmup_epochs=0"),
)


@pytest.fixture
def arrays(tmp_path):
    """Five kinds of bright squares on noise."""
    rng = np.random.default_rng(0)
    y = np.arange(96) % 5
    x = rng.integers(0, 120, (96, 28, 28), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        image[5 * label : 5 * label + 6] += 130
    path = tmp_path / "my.npz"
    np.savez(path, x_train=x[:64], y_train=y[:64], x_test=x[64:], y_test=y[64:])
    return path


@pytest.mark.slow
def test_trained_evaluated_transferred_and_reported(
    arrays, tmp_path, composed, evaluated, transferred, quick
):
    def trained(*overrides):
        folder = tmp_path / "runs" / f"pgd-{len(list(tmp_path.glob('runs/*')))}"
        train(composed("config", *SMALL, "data=arrays", f"data.root={arrays}", *overrides), folder)
        return folder

    first = trained()
    record = json.loads((first / "record.json").read_text())
    assert (record["data"]["name"], record["data"]["note"]) == ("arrays", "my.npz")
    assert record["n"] == 32
    network = load_model(first)
    assert network.stem.weight.shape[1] == 1
    assert network.linear.out_features == 5

    second = trained(f"init_from={first}", "seed=1")
    (paper,) = evaluated(f"runs=[{first}]", "suite.steps=3", "suite.table=[3]", "suite.logits_at=1")
    (strong,) = evaluated(f"runs=[{second}]", *quick, f"sources=[{first}]")
    assert paper.data.fingerprint == strong.data.fingerprint == record["data"]["fingerprint"]
    assert (paper.n, strong.n) == (32, 24)
    matrix = transferred(f"sources=[{first}]", f"targets=[{second}]", f"out={tmp_path / 'runs'}")
    assert matrix.n == 32
    report([str(tmp_path / "runs")], tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    assert "Images (my.npz)" in page
    assert page.count("data:image/png;base64") >= 3 * 8

    other = tmp_path / "other.npz"
    other.write_bytes(arrays.read_bytes())
    third = trained(f"data.root={other}")
    with pytest.raises(UserError, match="the runs were trained on different data; choose one"):
        transferred(f"sources=[{first}]", f"targets=[{third}]")
    (moved,) = evaluated(
        *(f"runs=[{first}]", "data.name=arrays", f"data.root={other}"),
        *("suite.steps=3", "suite.table=[3]", "suite.logits_at=1", "rerun=true"),
    )
    assert moved.metrics == paper.metrics


MODULE = """
from torch import nn
from lrm_lightning.data import ArraysDataModule

class Mine(ArraysDataModule):
    name = "mine"

class Colours(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, num_classes, 28), nn.Flatten())
"""


def test_data_set_of_a_class_of_ones_own(arrays, tmp_path, make_run, evaluated, monkeypatch):
    (tmp_path / "somebodys_data.py").write_text(MODULE)
    (tmp_path / "conf/data").mkdir(parents=True)
    yaml = f"_target_: somebodys_data.Mine\nname: mine\nroot: {tmp_path / 'rgb.npz'}\nval_size: 8\n"
    (tmp_path / "conf/data/mine.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(tmp_path)
    y = np.arange(20) % 10
    x = np.random.default_rng(0).integers(0, 256, (20, 20, 24, 3), dtype=np.uint8)
    np.savez(tmp_path / "rgb.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    run = make_run()  # of the digits
    paper = ("suite.steps=3", "suite.table=[3]", "suite.logits_at=1")
    own = ("data=mine", f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
    (record,) = evaluated(f"runs=[{run}]", *paper, *own)
    assert (record.data.name, record.data.n_test, record.n) == ("mine", 20, 20)
    with pytest.raises(UserError, match=r"^regular-00000000: .* to have 3 channels"):
        evaluated(f"runs=[{run}]", *paper, *own, f"data.root={arrays}")
    with pytest.raises(UserError, match=r"data\.name=mine is unknown; .* with data=mine hydra"):
        evaluated(f"runs=[{run}]", "data.name=mine")
    with pytest.raises(UserError, match=r"^data: .*nowhere_at_all"):
        evaluated(f"runs=[{run}]", *own, "data._target_=nowhere_at_all.Mine")


def test_a_network_that_does_not_take_the_images(arrays, tmp_path, composed, monkeypatch):
    (tmp_path / "somebodys_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = composed("config", *SMALL, "data=arrays", f"data.root={arrays}")
    cfg.model = {"_target_": "somebodys_data.Colours"}
    with pytest.raises(UserError, match=r"^model: .* to have 3 channels, but got 1"):
        train(cfg, tmp_path / "run")
    assert not (tmp_path / "run/config.yaml").exists()
