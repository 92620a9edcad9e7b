"""The walks of docs/extending.md, done as written there with files outside the package."""

import csv
import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import DigitsDataModule
from lrm_lightning.models import ResNet

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[1] / "results/cifar10-jpeg-cpu"
GUIDE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
WALKS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE))
# What a test leaves out of a training.
SHORT = (
    "logger=csv",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "robust_accuracy.n_images=20",
    "robust_accuracy.test_n_images=30",
    "robust_accuracy.test_steps=[2]",
)


@pytest.fixture
def walk(tmp_path, processes):
    """``walk("A defence")``: write its files, run its commands; gives what the last one printed."""

    def take(title, *, write=True):
        blocks = re.findall(r"```(\w+)\n(.*?)```", WALKS[title], re.DOTALL)
        for _, block in blocks if write else ():
            if found := re.match(r"# (\S+\.(?:py|yaml))\n", block):
                path = tmp_path / found[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block)
        output = ""
        for language, block in blocks:
            for line in block.splitlines() if language == "bash" else ():
                program, _, module, *arguments = shlex.split(line)
                assert program == "python"
                if module == "lrm_lightning.evaluate":
                    arguments = [*arguments, "suite.steps=20", "suite.table=[5]"]
                else:
                    arguments = [*arguments, *SHORT]
                output = processes.run(module, *arguments)
        return output

    return take


def _run(tmp_path, pattern):
    (path,) = tmp_path.glob(f"runs/{pattern}")
    with (path / "metrics.csv").open(newline="") as lines:
        return path, json.loads((path / "record.json").read_text()), list(csv.DictReader(lines))


def test_a_defence(walk, tmp_path):
    walk("A defence")
    _, record, metrics = _run(tmp_path, "digits/cosine-*")
    assert record["method"] == "cosine"
    terms = {key: float(metrics[0][f"train/loss{key}"]) for key in ("", "/adversarial", "/cosine")}
    assert terms["/cosine"] > 0
    assert terms[""] == pytest.approx(terms["/adversarial"] + terms["/cosine"])
    (module,) = {name for name in record["sources"] if not name.startswith("lrm_lightning.")}
    assert "warning" not in walk("A defence")
    with (tmp_path / f"{module}.py").open("a") as file:
        file.write("# another defence\n")
    told = f"warning: its code has changed since: {module}; rerun=true trains with what there is"
    assert told in walk("A defence", write=False)


def test_a_defence_has_its_term_in_the_gradient(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", WALKS["A defence"], re.DOTALL)
    (tmp_path / "my_defense.py").write_text(blocks[0])
    spec = importlib.util.spec_from_file_location("my_defense", tmp_path / "my_defense.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    datamodule = DigitsDataModule(batch_size=8)
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))

    def gradient(weight):
        torch.manual_seed(0)
        network = ResNet(depth=1, widths=[4, 4, 8, 8])
        attack = PGDAttack(eps=0.1, step_size=0.05, steps=2)
        defense = module.CosinePairing(network, cosine_weight=weight, attack=attack)
        terms = defense.loss_terms(batch)
        torch.stack(list(terms.values())).sum().backward()
        return torch.cat([each.grad.flatten() for each in network.parameters()]), terms["cosine"]

    without, zero = gradient(0.0)
    once, term = gradient(1.0)
    twice, _ = gradient(2.0)
    assert zero == 0
    assert term > 0
    assert (once - without).norm() > 1e-3 * without.norm()
    torch.testing.assert_close(twice - without, 2 * (once - without), rtol=1e-3, atol=1e-5)


def test_a_data_set(walk, tmp_path):
    walk("A data set")
    _, record, _ = _run(tmp_path, "stripes/pgd-*")
    assert record["data"]["name"] == "stripes"
    assert record["data"]["class_names"] == ["upright", "level"]
    assert (record["data"]["n_train"], record["data"]["n_val"]) == (240, 60)
    assert record["n"] == 30


def test_a_network(walk, tmp_path):
    walk("A network")
    path, record, _ = _run(tmp_path, "digits/pgd-*")
    assert record["config"]["model"] == {"_target_": "my_network.Small", "width": 16}
    saved = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"]["network.0.weight"].shape == (16, 3, 3, 3)
    assert saved["state_dict"]["network.6.weight"].shape == (10, 16)


def test_a_network_of_timm(processes, tmp_path):
    (tmp_path / "timm.py").write_text((Path(__file__).parent / "stand_ins/timm.py").read_text())
    train = ("method=pgd", "model=timm", "model.model_name=resnet34", "data=digits", *SHORT)
    processes.run("lrm_lightning.train", *train)
    path, record, _ = _run(tmp_path, "digits/pgd-*")
    assert record["config"]["model"]["model_name"] == "resnet34"
    evaluate = (f"runs=[{path}]", "n_images=10", "suite.steps=20", "suite.table=[5]")
    error = processes.run("lrm_lightning.evaluate", *evaluate, code=1)
    assert "give trust=[timm]" in error
    processes.run("lrm_lightning.evaluate", *evaluate, "trust=[timm]")
    (evaluation,) = path.glob("evaluations/*.json")
    assert "pgd5" in json.loads(evaluation.read_text())["metrics"]


def test_an_attack(walk, tmp_path):
    output = walk("An attack")
    path, record, metrics = _run(tmp_path, "digits/pgd-*")
    assert "val/acc/rfgsm" in metrics[-1]
    assert 0 <= record["metrics"]["rfgsm"] <= record["metrics"]["clean"] + 0.2
    evaluation = json.loads(next(path.glob("evaluations/*.json")).read_text())
    assert "r_fgsm" in evaluation["metrics"]
    assert "r_fgsm" in output


def test_a_schedule(walk, tmp_path):
    walk("A schedule")
    path, record, _ = _run(tmp_path, "digits/regular-*")
    assert record["config"]["scheduler"]["name"] == "exponential"
    saved = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
    # Torch's schedule is stepped once an epoch: twice, from 0.1.
    assert saved["lr_schedulers"][0]["_last_lr"] == pytest.approx([0.1 * 0.9**2] * 2)


def test_a_callback(walk, tmp_path):
    output = walk("A callback")
    assert [line for line in output.splitlines() if line.startswith("announced")] == [
        "announced: 1",
        "announced: 2",
    ]


def test_a_figure(interpreter, tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", WALKS["A figure of the report"], re.DOTALL)
    (tmp_path / "my_report.py").write_text(block)
    command = re.findall(r"^python (.*)$", WALKS["A figure of the report"], re.MULTILINE)[0]
    (tmp_path / "runs").symlink_to(RESULTS)
    done = subprocess.run(
        [interpreter, *shlex.split(command)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report/figures/cifar10-by-length.pdf").exists()
    assert "Accuracy by length of training" in (tmp_path / "report/index.html").read_text()
