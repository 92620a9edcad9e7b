"""Several processes that do one evaluation together, and what it costs."""

import errno
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.cache import Cache, Progress
from lrm_lightning.evaluation.strong import StrongSuite

ROOT = Path(__file__).parents[2]
FakeSlurm = runpy.run_path(str(ROOT / "tests/cluster/fake_slurm.py"))["FakeSlurm"]
COMMAND = "lrm_lightning.evaluate"
# Differ from one execution to the next, or say where it was executed.
OF_THE_EXECUTION = ("wall_s", "written", "sha256")


def read(folder):
    """Record and verdicts of the only evaluation."""
    (path,) = (folder / "evaluations").glob("*.json")
    record = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        return {k: v for k, v in record.items() if k not in OF_THE_EXECUTION}, dict(arrays)


def assert_same(one, other):
    assert one[0] == other[0]
    assert set(one[1]) == set(other[1])
    for name, array in one[1].items():
        assert array.dtype == other[1][name].dtype
        assert array.tobytes() == other[1][name].tobytes(), name


NETWORK = """
import torch
from sklearn.datasets import load_digits
from torch import nn

def nearest():
    \"\"\"The class whose mean of the digits is nearest.\"\"\"
    digits = load_digits()
    means = [digits.data[digits.target == label].mean(axis=0) / 16 for label in range(10)]
    network = nn.Sequential(nn.AvgPool3d((3, 4, 4)), nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        network[2].weight.copy_(torch.stack([torch.from_numpy(mean) for mean in means]))
        network[2].bias.copy_(-network[2].weight.square().sum(dim=1) / 2)
    return network
"""


@pytest.mark.slow
def test_made_in_four_shares_of_which_one_is_killed_it_is_the_record_made_alone(processes, quick):
    (processes.folder / "somebodys.py").write_text(NETWORK)
    fixed = (COMMAND, "network=somebodys:nearest", "data.name=digits", *quick, "attack.eps=0.03")
    fixed += ("n_images=40", "batch_size=4", "device=cpu")
    folder = processes.folder / "runs/nearest"
    processes.run(*fixed)
    alone = read(folder)
    shutil.rmtree(folder / "evaluations")

    def start(share):
        return processes.start(*fixed, "shares=4", f"share={share}")

    runs = {share: start(share) for share in (1, 2, 3, 4)}
    pieces = folder / "evaluations" / "strong.progress"
    deadline = time.monotonic() + 120
    while len(list(pieces.rglob("*.npz"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    runs[2].process.kill()
    runs[2].process.join()
    assert runs[2].process.exitcode == -9  # else it had ended before
    runs[2] = start(2)
    for share, run in runs.items():
        assert f"strong {folder.name} (1/1), share {share} of 4: " in run.ends().output
    assert_same(read(folder), alone)
    assert [path.name for path in (folder / "evaluations").iterdir() if path.is_dir()] == []


def test_what_another_process_computes_comes_last_and_is_waited_for(tmp_path):
    begun, go_on, computed = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        assert go_on.wait(60)
        return {"a": np.arange(3)}

    def piece(name):
        computed.append(name)
        return {"a": np.arange(len(name))}

    other = threading.Thread(target=lambda: Cache(tmp_path).once("x", slow))
    other.start()
    assert begun.wait(60)
    found = Cache(tmp_path).each({name: lambda name=name: piece(name) for name in ("x", "yy")})
    assert next(found)[0] == "yy"
    go_on.set()
    name, last = next(found)
    other.join()
    assert (name, last["a"].tolist()) == ("x", [0, 1, 2])
    assert computed == ["yy"]


@pytest.mark.parametrize(("number", "order"), [(1, "abcde"), (2, "bcdea"), (3, "deabc")])
def test_a_process_begins_with_its_share(tmp_path, number, order):
    cache = Cache(tmp_path, share=(number, 3))
    found = cache.each({name: lambda: {"a": np.zeros(1)} for name in "abcde"})
    assert "".join(name for name, _ in found) == order


def test_the_last_process_to_leave_forgets_the_pieces(tmp_path):
    one, other = Cache(tmp_path / "kept"), Cache(tmp_path / "kept")
    with one.shared():
        one.once("x", lambda: {"a": np.arange(2)})
        with other.shared():
            pass
        assert one.once("x", lambda: {"a": np.arange(9)})["a"].tolist() == [0, 1]
        assert one.begun
    assert not one.begun
    assert not (tmp_path / "kept").exists()


def test_without_locks_no_process_takes_the_pieces_of_another(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("lrm_lightning.evaluation.cache.fcntl.flock", flock)
    one, other = (Cache(tmp_path / "kept", share=(number, 2)) for number in (1, 2))
    with one.shared():
        one.once("x", lambda: {"a": np.arange(2)})
        with other.shared():
            found = other.once("x", lambda: {"a": np.arange(9)})
        assert found["a"].tolist() == [0, 1]
        one.once("y", lambda: {"a": np.arange(2)})
    alone = Cache(tmp_path / "alone")
    with alone.shared():
        alone.once("x", lambda: {"a": np.arange(2)})
    assert not (tmp_path / "alone").exists()


def test_a_failure_leaves_the_pieces(tmp_path):
    cache = Cache(tmp_path / "kept")

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), cache.shared():
        for _ in cache.each({"x": lambda: {"a": np.arange(2)}, "y": fail}):
            pass
    assert Cache(tmp_path / "kept").once("x", lambda: {"a": np.arange(9)})["a"].tolist() == [0, 1]


@pytest.mark.parametrize("shares", [("share=2",), ("shares=2", "share=3")])
def test_a_share_that_is_none(evaluated, make_run, shares):
    with pytest.raises(UserError, match=r"^share=\d must be from 1 to shares=\d$"):
        evaluated(f"runs=[{make_run()}]", "suite=strong", *shares)


class Unbreakable(nn.Module):
    """Class 0, far ahead of the others; counts the images that it is shown."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(192, 4)
        self.forwards, self.backwards = 0, 0

    def forward(self, x):
        self.forwards += len(x)
        logits = self.linear(x.flatten(1)) + torch.tensor([100.0, 0, 0, 0])
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backwards += len(gradient)


def test_the_cost_that_is_told_is_what_an_image_takes_that_nothing_breaks(
    make_bench, images, capsys
):
    images = images._replace(x=images.x[:3], y=torch.zeros(3, dtype=torch.int64))
    images = images._replace(index=images.index[:3], shown=np.arange(3))
    # Steps so short that no search comes to the ball's edge and goes in circles there.
    threat = PGDAttack(eps=0.08, step_size=0.0005)
    bench = make_bench(images=images, threat=threat, progress=Progress("strong mine"))
    suite = StrongSuite(
        **{"pgd_steps": 40, "pgd_restarts": 2, "targets": 2, "targeted_steps": 30},
        **{"large_eps": 0.3, "large_eps_steps": 20, "autoattack_iterations": 30},
        square_queries=300,
    )
    network = Unbreakable().eval()
    correct = suite.run(network, bench).correct
    assert all(each.all() for each in correct.values())
    both, forward = suite.cost(4, flows=True)
    assert network.backwards / 3 == pytest.approx(both, rel=0.1)
    assert (network.forwards - network.backwards) / 3 == pytest.approx(forward, rel=0.25)
    first = capsys.readouterr().out.splitlines()[1]
    passes = f"{both} passes forward and backward, {forward} passes forward alone"
    assert first.startswith(f"strong mine: an image takes at most {passes}; 3 images at most ")


def test_four_shares_take_a_quarter_of_the_time(capsys, tmp_path):
    Cache(tmp_path).once("a", dict)
    told = "an image takes at most 3,000 passes; 1,000 images at most 2.0 h, 30 min in 4 shares"
    for cache, more in (
        (Cache(share=(2, 4)), ""),
        (Cache(tmp_path, share=(2, 4)), ", less what is there from before"),
    ):
        Progress("mine", cache).cost(1000, {"passes": 3000, "others": 0}, 7.2)
        assert capsys.readouterr().out == f"mine: {told}{more}\n"


@pytest.mark.slow
def test_on_a_cluster_shares_are_an_array(processes, interpreter, quick, tmp_path_factory):
    page = (ROOT / "docs/evaluation.md").read_text()
    (line,) = re.findall(r"^sbatch --array.*", page, re.MULTILINE)
    (processes.folder / "somebodys.py").write_text(NETWORK)
    ours = ("network=somebodys:nearest", "data.name=digits", *quick, "attack.eps=0.03")
    ours += ("n_images=40", "batch_size=4", "device=cpu")
    for shown, given in {
        "python": interpreter,
        '"runs=[runs/cifar10/*]" suite=strong n_images=null': shlex.join(ours),
        "=1-4": "=1-2",
        "shares=4": "shares=2",
    }.items():
        assert shown in line
        line = line.replace(shown, given)
    slurm = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    environment = os.environ | slurm.environment
    subprocess.run(["bash", "-c", line], env=environment, check=True, stdout=subprocess.DEVNULL)
    path = f"{ROOT}{os.pathsep}{processes.folder}"
    tasks = [slurm.start(n, folder=processes.folder, PYTHONPATH=path) for n in (1, 2)]
    assert [task.wait(600) for task in tasks] == [0, 0]
    for number in (1, 2):
        said = (processes.folder / f"slurm-{number}.out").read_text()
        assert f"strong nearest (1/1), share {number} of 2: " in said
    record, _ = read(processes.folder / "runs/nearest")
    assert record["n"] == 40
