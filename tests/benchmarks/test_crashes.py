"""What benchmarks.kills calls the same, where it kills; what benchmarks.endurance sees."""

import json
import os
import platform
import re
import subprocess
import sys
from random import Random

import numpy as np
import pytest
import torch

from benchmarks.endurance import descendants, held, slope
from benchmarks.kills import WATCHER, Event, a_moment, outcome
from lrm_lightning.runs.files import replacing

EVENTS = [
    Event(1.0, 1, "open r/config.yaml.partial"),
    Event(2.0, 1, "open r/checkpoints/last.ckpt.partial"),
    Event(2.5, 1, "os.rename r/checkpoints/last.ckpt"),
    Event(4.0, 2, "open r/checkpoints/last.ckpt.partial"),
    Event(9.0, 1, "os.rename r/record.json"),
]


def test_a_file_that_is_being_written_has_the_same_name_in_every_process(tmp_path):
    (line,) = [each for each in WATCHER.splitlines() if each.startswith("PARTIAL = ")]
    found = {"re": re, "platform": platform}
    exec(line, found)
    with replacing(tmp_path / "last.ckpt") as partial:
        partial.touch()
    assert re.sub(found["PARTIAL"], ".partial", partial.name) == "last.ckpt.partial"


def test_moments_of_a_training_lie_between_its_checkpoints():
    at = {(each.what, each.number): each.at for each in EVENTS}
    drawn = [a_moment(EVENTS, "training", Random(seed)) for seed in range(200)]
    moments = np.array([at[each["event"], each["number"]] + each["after"] for each in drawn])
    assert (moments >= 2).all()
    assert (moments <= 4).all()
    assert moments.mean() == pytest.approx(3, abs=5 * 2 / 12**0.5 / 200**0.5)  # uniform
    assert not any(each["half"] for each in drawn)


def test_a_file_is_halved_before_it_takes_its_place_alone():
    drawn = [a_moment(EVENTS, "checkpoint", Random(seed)) for seed in range(100)]
    assert {each["event"] for each in drawn} == {each.what for each in EVENTS[1:4]}
    halved = {each["event"] for each in drawn if each["half"]}
    assert halved == {"os.rename r/checkpoints/last.ckpt"}


@pytest.fixture
def left(tmp_path):
    """``left(name, **changes)``: what a command has left, with these changes."""

    def leave(name, *, weight=1.0, score=0.5, written="yesterday", verdict=True):
        run = tmp_path / name / "runs/digits/pgd-1"
        (run / "checkpoints").mkdir(parents=True)
        costs = dict.fromkeys(("written", "wall_s", "epoch_s", "peak_memory_bytes"), written)
        rest = {"optimizer_states": [], "lr_schedulers": [], "global_step": 6, "metrics": "a"}
        content = {"state_dict": {"weight": torch.tensor([weight])}, "elapsed_s": written} | rest
        torch.save(content, run / "checkpoints/last.ckpt")
        (run / "record.json").write_text(json.dumps({"score": score} | costs))
        np.savez(run / "correct.npz", clean=[verdict])
        (run / "status.json").write_text(written)
        return tmp_path / name

    return leave


def test_results_are_equal_but_for_their_times(left):
    wanted = outcome(left("one"))
    assert {name.rpartition("/")[2] for name in wanted} == {
        *("last.ckpt", "record.json", "correct.npz"),
    }
    assert outcome(left("other", written="today")) == wanted
    for number, (key, change, name) in enumerate(
        [
            ("weight", 1 + 2**-23, "checkpoints/last.ckpt"),
            ("score", 0.25, "record.json"),
            ("verdict", False, "correct.npz"),
        ]
    ):
        found = outcome(left(f"{number}", **{key: change}))
        differing = {each for each in wanted if found[each] != wanted[each]}
        assert differing == {f"runs/digits/pgd-1/{name}"}
    more = left("more")
    (more / "runs/digits/pgd-1/record.json.7.partial").touch()
    assert outcome(more).keys() - wanted.keys() == {"runs/digits/pgd-1/record.json.7.partial"}


PARENT = """
import subprocess, sys
waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
child = subprocess.Popen(waiting, stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_process_and_what_it_has_started_are_seen():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], **pipes) as parent:
        child = int(parent.stdout.readline())
        assert descendants(parent.pid) == [child]
        assert {parent.pid, child} <= set(descendants(os.getpid()))
        memory, files, threads = held(parent.pid)
        assert 1000 < memory < 1e6
        assert (files, threads) == (4, 1)  # its streams and the pipe to the child
        parent.stdin.close()
    assert held(parent.pid) == [0, 0, 0]


def test_the_slope_is_that_of_the_line_and_its_interval_covers_it():
    epochs = range(1, 151)
    growth, spread = slope(epochs, [7 + 3 * each for each in epochs])
    assert growth == pytest.approx(3)
    assert spread == pytest.approx(0, abs=1e-6)
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        noise = generator.normal(scale=20, size=150)
        growth, spread = slope(epochs, 0.5 * np.array(epochs) + noise)
        covered += abs(growth - 0.5) <= spread
    assert covered / 400 == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 400) ** 0.5)
