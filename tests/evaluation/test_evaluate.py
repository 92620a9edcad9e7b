"""``python -m lrm_lightning.evaluate``: records, resuming, and one line for every mistake."""

import hashlib
import json
import random
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack

from lrm_lightning.data import DigitsDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.bench import pick
from lrm_lightning.evaluation.cache import Cache
from lrm_lightning.reporting.aggregate import load
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.networks import load_model

COMMAND = "lrm_lightning.evaluate"
# Differ from one execution to the next, or say where it was executed.
OF_THE_EXECUTION = ("wall_s", "written", "sha256")
PAPER = ("suite=paper", "n_images=30", "suite.steps=6", "suite.table=[2,6]", "suite.logits_at=3")


def read(folder, suite):
    """Record and verdicts of the newest evaluation by a suite."""
    *_, path = sorted(
        (folder / "evaluations").glob(f"{suite}-*.json"), key=lambda each: each.stat().st_mtime_ns
    )
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.read_text()), dict(arrays)


def assert_same(one, other):
    for record, _ in (one, other):
        for key in OF_THE_EXECUTION:
            record.pop(key)
    assert one[0] == other[0]
    assert set(one[1]) == set(other[1])
    for name, array in one[1].items():
        assert np.array_equal(array, other[1][name]), name


def test_paper_suite_leaves_a_record(processes, make_run):
    folder = make_run("regular-0a1b2c3d")
    printed = processes.run(COMMAND, f"runs=[{folder.parent}/*]", *PAPER, "rerun=true")
    record, arrays = read(folder, "paper")
    assert (record["schema"], record["kind"], record["suite"]) == (1, "whitebox", "paper")
    assert record["model"]["label"] == "regular-0a1b2c3d"
    assert len(record["model"]["weights_sha256"]) == 64
    assert record["data"]["name"] == "digits"
    assert (record["n"], record["split"]) == (30, "test")
    assert record["subset"] == {"seed": 0, "n_images": 30}
    assert list(record["metrics"]) == ["clean", "fgsm", "pgd2", "pgd6"]
    for name, accuracy in record["metrics"].items():
        assert arrays[name].mean() == accuracy
        assert record["intervals"][name] == list(wilson_interval(int(arrays[name].sum()), 30))
        assert f"{100 * accuracy:.1f}" in printed
    assert record["overrides"] == ["runs=[runs/regular-0a1b2c3d]", *PAPER]
    assert "already evaluated" in processes.run(COMMAND, *record["overrides"])
    assert record["attack"]["eps"] == 0.1
    assert record["attack"]["step_size"] == pytest.approx(0.026)
    assert record["curve"]["steps"] == list(range(7))
    assert set(record["logits"]) == {"clean", "adversarial"}
    assert len(arrays["gallery_index"]) == 8
    assert len(arrays["index"]) == 30
    assert {"versions", "git", "hardware", "wall_s", "written"} <= set(record)
    assert record["versions"]["pyautoattack"] == "0.2.0"
    left = {path.name for path in processes.folder.iterdir()}
    assert left == {"runs", "0.out", "0.err", "1.out", "1.err"}  # no folders of Hydra's
    assert not list((folder / "evaluations").glob("*progress*"))


def test_a_fraction_is_recorded_as_number(evaluated, make_run, capsys):
    typed = ("attack.eps=8/255", "attack.step_size=2/255", "n_images=4")
    (record,) = evaluated(f"runs=[{make_run()}]", *PAPER, *typed)
    assert (record.attack["eps"], record.attack["step_size"]) == (8 / 255, 2 / 255)
    assert (
        "warning: 2 steps of 0.00784314 are shorter than eps 0.0313725" in capsys.readouterr().out
    )


def test_the_report_leaves_out_what_would_be_evaluated_again(evaluated, make_run, capsys):
    folder = make_run()
    (first,) = evaluated(f"runs=[{folder}]", *PAPER)
    record = json.loads((folder / "record.json").read_text())
    again, last = {"written": "9999-01-01"}, {"last": first.network.weights_sha256}
    for told, current in (({}, True), (again, False), (again | {"weights": last}, True)):
        (folder / "record.json").write_text(json.dumps(record | told))
        assert len(load([str(folder)]).evaluations) == current
        evaluated(f"runs=[{folder}]", *PAPER)
        assert ("already evaluated" in capsys.readouterr().out) == current


def test_what_is_recorded_is_not_done_again(evaluated, make_run, monkeypatch, capsys):
    folder = make_run()
    (first,) = evaluated(f"runs=[{folder}]", *PAPER)
    path = folder / "evaluations" / f"paper-{first.evaluation_id}.json"
    before = path.stat().st_mtime_ns
    (again,) = evaluated(f"runs=[{folder}]", *PAPER)
    assert "already evaluated" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    assert again == first
    (other,) = evaluated(f"runs=[{folder}]", *PAPER, "seed=1")
    assert other.subset.seed == 1
    assert read(folder, "paper")[0]["evaluation_id"] == other.evaluation_id != first.evaluation_id
    (third,) = evaluated(f"runs=[{folder}]", *PAPER)
    assert "already evaluated" in capsys.readouterr().out  # the second is another file
    assert third == first
    (anew,) = evaluated(f"runs=[{folder}]", *PAPER, "rerun=true")
    assert "already evaluated" not in capsys.readouterr().out
    assert anew.metrics == first.metrics
    path.with_suffix(".npz").unlink()
    assert evaluated(f"runs=[{folder}]", *PAPER)[0].metrics == first.metrics
    for suffix in (".json", ".npz"):  # as version 0.1 named them
        path.with_suffix(suffix).rename(path.with_name(f"paper{suffix}"))
    old = json.loads(path.with_name("paper.json").read_text())
    hashes = {"sha256", "files"}  # which it did not write
    path.with_name("paper.json").write_text(
        json.dumps({key: value for key, value in old.items() if key not in hashes})
    )
    capsys.readouterr()
    assert evaluated(f"runs=[{folder}]", *PAPER)[0].metrics == first.metrics
    assert "already evaluated" in capsys.readouterr().out
    path.with_name("paper.json").write_text("{")
    assert evaluated(f"runs=[{folder}]", *PAPER)[0].metrics == first.metrics
    assert path.with_suffix(".npz").exists()


@pytest.mark.slow
def test_autoattack_is_the_official_code_bit_for_bit(evaluated, make_run, quick, caplog):
    folder = make_run()
    # weak enough to leave something for every attack
    evaluated(f"runs=[{folder}]", *quick, "attack.eps=0.005", "seed=3")
    record, arrays = read(folder, "strong")

    datamodule = DigitsDataModule()
    datamodule.setup()
    images = pick(datamodule.test_dataloader().split, n_images=24, seed=3)
    caplog.set_level("CRITICAL", "auto-attack")
    official = AutoAttack(load_model(folder), norm="Linf", eps=0.005, seed=3, version="standard")
    official.apgd.n_iter = official.apgd_targeted.n_iter = official.fab.n_iter = 2
    official.square.n_queries = 10
    x_adv, y_adv = official.run_standard_evaluation(images.x, images.y, batch_size=10)

    assert (arrays["index"] == images.index).all()
    assert (arrays["autoattack_y_adv"] == y_adv.numpy()).all()
    assert (arrays["autoattack"] == (y_adv == images.y).numpy()).all()
    pixels = hashlib.sha256(x_adv.numpy().tobytes()).hexdigest()
    assert record["autoattack"]["x_adv_sha256"] == pixels
    assert record["settings"]["autoattack"]["version"] == "reduced"
    assert record["masking"]["verdict"] in ("masked", "not masked", "undecided")
    assert 0 < arrays["autoattack"].sum() < arrays["clean"].sum()


@pytest.mark.slow
def test_killed_at_five_random_moments_it_ends_with_the_same_record(processes, make_run, quick):
    folder = make_run()
    arguments = (COMMAND, f"runs=[{folder}]", *quick, "attack.eps=0.002")
    processes.run(*arguments)
    undisturbed = read(folder, "strong")
    shutil.rmtree(folder / "evaluations")

    generator = random.Random(5)
    pieces = folder / "evaluations" / "strong.progress"
    moments = sorted(generator.sample(range(1, 12), 5))
    for moment in moments:
        process = processes.start(*arguments).process
        deadline = time.monotonic() + 120
        while len(list(pieces.rglob("*.npz"))) < moment and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -9  # else it had ended before
        assert not list((folder / "evaluations").glob("*.json"))
    processes.run(*arguments)
    assert_same(undisturbed, read(folder, "strong"))
    assert not pieces.exists()


def test_killed_while_it_writes(processes, make_run, killed_at):
    folder = make_run()
    arguments = (COMMAND, f"runs=[{folder}]", *PAPER)
    processes.run(*arguments)
    undisturbed, names = read(folder, "paper"), sorted((folder / "evaluations").iterdir())
    shutil.rmtree(folder / "evaluations")
    for moment in (("os.rename", ".npz", 2), ("os.rename", ".json")):  # a piece; the record
        processes.start(*arguments, prelude=killed_at(*moment)).ends(-9)
        assert not list((folder / "evaluations").glob("*.json"))
    processes.run(*arguments)
    assert_same(undisturbed, read(folder, "paper"))
    assert sorted((folder / "evaluations").iterdir()) == names


ATTACK = """
from dataclasses import dataclass
import torch
from lrm_lightning.attacks import Attack

@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    draws: int = 1

    def draw_noise(self, shape, *, generator=None, device="cpu"):
        return self.threat.draw(shape, generator=generator, device=device)[None]

    def __call__(self, model, x, y, *, start=None, generator=None):
        return (start[0] + 1e-3 * torch.rand(x.shape, generator=generator)).clamp(0, 1)

class Other:
    pass
"""
MINE = "extra_attacks.mine"


@pytest.fixture
def own_attack(tmp_path, monkeypatch):
    """A folder of somebody's with an attack, and what makes ``evaluate`` use it."""
    (tmp_path / "conf" / "attack").mkdir(parents=True)
    mine = tmp_path / "conf" / "attack" / "mine.yaml"
    mine.write_text("_target_: somebodys_attack.Noise\nnorm: linf\neps: 0.1\n")
    (tmp_path / "somebodys_attack.py").write_text(ATTACK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_attack", raising=False)
    return f"hydra.searchpath=[file://{tmp_path / 'conf'}]", f"+attack@{MINE}=mine"


@pytest.mark.slow
def test_more_of_what_is_tried_repeats_no_other_attack(
    evaluated, make_run, quick, monkeypatch, own_attack
):
    one, other = make_run("a-1"), make_run("b-2", scale=0.5)
    fixed = (f"runs=[{one}]", *quick, "attack.eps=0.005")
    with monkeypatch.context() as killed_at_the_end:
        killed_at_the_end.setattr(Cache, "remove", lambda self: None)
        (first,) = evaluated(*fixed)
    computed = []
    each = Cache.each

    def counted(self, pieces):
        def noted(name):
            computed.append(name)
            return pieces[name]()

        return each(self, {name: partial(noted, name) for name in pieces})

    monkeypatch.setattr(Cache, "each", counted)
    sources = f"sources=[{one},{other}]"  # of which the network itself is none
    (record,) = evaluated(*fixed, sources, *own_attack, f"{MINE}.eps=0.005")
    assert set(record.metrics) == set(first.metrics) | {"transfer_b-2", "mine"}
    assert record.settings["transfer"]["sources"] == ["b-2"]
    assert {name.split()[0] for name in computed} == {"transfer", "mine"}


def test_an_attack_from_outside(evaluated, make_run, own_attack):
    folder = make_run()
    fixed = (f"runs=[{folder}]", *PAPER)
    (without,) = evaluated(*fixed)
    (record,) = evaluated(*fixed, *own_attack)
    assert record.evaluation_id != without.evaluation_id
    assert set(record.metrics) == set(without.metrics) | {"mine"}
    assert all(record.metrics[name] <= without.metrics[name] for name in without.metrics)
    settings = {"_target_": "somebodys_attack.Noise", "norm": "linf", "eps": 0.1, "draws": 1}
    code = {"somebodys_attack": hashlib.sha256(ATTACK.encode()).hexdigest()}
    assert record.settings["mine"] == settings | {"code": code}
    arrays = read(folder, "paper")[1]
    assert arrays["mine"].mean() == record.metrics["mine"]
    (again,) = evaluated(*fixed, *own_attack, "rerun=true")
    assert again.metrics == record.metrics
    (other,) = evaluated(*fixed, *own_attack, f"+{MINE}.draws=2")
    assert other.evaluation_id != record.evaluation_id
    with Path(sys.modules["somebodys_attack"].__file__).open("a") as file:
        file.write("# mended")
    (other,) = evaluated(*fixed, *own_attack)
    assert other.evaluation_id != record.evaluation_id


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{MINE}.eps=0.2"], r"mine is of .*eps=0\.2.* is evaluated under .*eps=0\.1"),
        ([f"+{MINE}.strength=3"], r"extra_attacks\.mine: .*'strength'"),
        ([f"{MINE}.norm=l7"], r"extra_attacks\.mine: norm='l7' is unknown"),
        ([f"{MINE}._target_=somebodys_attack.Other"], "unexpected|takes no arguments"),
        ([f"{MINE}._target_=somebodys_attack.None_"], r"extra_attacks\.mine: .*None_"),
        ([f"{MINE}._target_=nowhere_at_all.Noise"], "No module named 'nowhere_at_all'"),
        (["+attack@extra_attacks.pgd20=mine"], "use this name themselves"),
        (["+attack@extra_attacks.large_eps=mine"], "use this name themselves"),
        (["+attack@extra_attacks.targets=mine"], "use this name themselves"),
        (["+extra_attacks.pgdish=3"], r"extra_attacks\.pgdish: "),
        (["+extra_attacks.empty=3"], r"extra_attacks\.empty: "),
        (["+extra_attacks.odd={_target_: builtins.dict}"], "is a dict, not a lrm_lightning"),
    ],
)
def test_wrong_extra_attack(evaluated, make_run, own_attack, overrides, message):
    with pytest.raises(UserError, match=message):
        evaluated(f"runs=[{make_run()}]", *PAPER, *own_attack, *overrides)


def test_an_attack_that_a_run_names_is_never_built(evaluated, make_run, own_attack):
    folder = make_run()
    config = folder / "config.yaml"
    config.write_text(
        config.read_text().replace("norm: linf", "_target_: os.mkdir\n    norm: linf")
    )
    assert "os.mkdir" in config.read_text()
    (record,) = evaluated(f"runs=[{folder}]", *PAPER)
    assert record.attack["eps"] == 0.1


NETWORKS = """
import torch
from torch import nn

def pooled():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))

seen = set()

def noting():
    def note(*_):
        matmul = torch.get_float32_matmul_precision()
        autocast = torch.is_autocast_enabled("cpu")
        seen.add((torch.backends.cudnn.allow_tf32, matmul, autocast))

    network = pooled()
    network.register_forward_hook(note)
    return network

class Broken(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] * torch.nan

class Seven(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :7]

class Wrong(nn.Module):
    def forward(self, x):
        return x @ torch.ones(5, 5)
"""


@pytest.fixture
def elsewhere(evaluated, tmp_path, monkeypatch):
    """``elsewhere("pooled")`` evaluates a network of a module of somebody's."""
    (tmp_path / "somebodys.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    settings = (f"out={tmp_path / 'kept'}", *PAPER, "data.name=digits", "device=cpu")
    return lambda name, *more: evaluated(f"network=somebodys:{name}", *settings, *more)


def test_evaluations_compute_in_full_float32(elsewhere):
    assert torch.backends.cudnn.allow_tf32  # torch's default
    with torch.autocast("cpu"):
        elsewhere("noting")
    assert sys.modules["somebodys"].seen == {(False, "highest", False)}


def test_network_from_elsewhere(elsewhere, tmp_path):
    elsewhere("pooled", "name=mine")
    record, _ = read(tmp_path / "kept" / "mine", "paper")
    assert record["model"]["name"] == record["model"]["label"] == "mine"
    assert record["model"]["run_dir"] == ""
    assert record["attack"]["eps"] == 0.03
    assert record["data"]["name"] == "digits"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Broken", "Broken: the model returned logits that are NaN or infinite"),
        ("Seven", "Seven: the model knows 7 classes, but the data have 10"),
        ("Wrong", "Wrong: mat1 and mat2 shapes cannot be multiplied"),
        ("Missing", "network=somebodys:Missing: AttributeError"),
    ],
)
def test_a_network_that_cannot_be_evaluated(elsewhere, name, message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        elsewhere(name)
    assert len(str(error.value).splitlines()) == 1


def test_a_mistake_is_one_line(processes):
    line = processes.run(COMMAND, "seed=0", code=1)
    assert line.startswith("error: nothing to evaluate: give runs=[...], or network=package.module")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("suite.steps=0", "suite.steps=0 must be a whole number >= 1"),
        ("+suite.stepz=3", "suite..*unexpected keyword argument 'stepz'"),
        ("n_images=0", "n_images=0 must be a whole number >= 1"),
        ("seed=-1", "seed=-1 must be"),
        ("batch_size=0", "batch_size=0 must be"),
        ("rerun=maybe", "rerun='maybe' must be true or false"),
        ("checkpoint=best", "best.ckpt is missing"),
        ("sources=[x]", "sources is of suite=strong, not of suite=paper"),
        ("surrogate=x:y", "surrogate is of suite=strong, not of suite=paper"),
        ("weights=x.pt", "weights is of network=package.module:function, which is not given"),
        ("name=x", "name is of network="),
        ("mean=[0.5,0.5,0.5]", "mean is of network="),
        ("std=0.5", "std is of network="),
        ("output=logits", "output is of network="),
    ],
)
def test_wrong_values(evaluated, make_run, override, message):
    with pytest.raises(UserError, match=message):
        evaluated(f"runs=[{make_run()}]", override)
