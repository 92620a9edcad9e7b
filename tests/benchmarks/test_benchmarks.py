"""The benchmark's arithmetic, what it refuses to compare, and that it runs at all."""

import json
import math

import pytest
import torch

from benchmarks import peers
from benchmarks.__main__ import main, parse
from benchmarks.attacks import _compare, step_curve, table_row
from benchmarks.same_work import DifferentWorkError, check_ball, check_verdicts
from benchmarks.subject import ENGINES, OURS, REFERENCE, Settings, admit, copy_for, prepare
from benchmarks.timing import Result, interleaved, ratios
from benchmarks.training_step import NO_ATTACK, training_step
from lrm_lightning.attacks import pgd

# Peers are older than the libraries they run on.
pytestmark = pytest.mark.filterwarnings("ignore")

TINY = Settings(
    model="resnet_tiny", rounds=1, images=12, batch=6, pretraining_lr=1e-2, curve_steps=20
)
OWN_LOOPS = [name for name, peer in peers.PEERS.items() if not peer.module]


@pytest.fixture(scope="module")
def subject():
    with torch.random.fork_rng(devices=[]):
        return prepare(TINY)._replace(peers=OWN_LOOPS)  # the others have tests of their own


class TestTiming:
    def test_contestants_run_once_a_round_and_each_begins_one(self):
        calls = []
        contestants = {name: lambda name=name: calls.append(name) or name for name in "ab"}
        seconds, outcomes = interleaved(contestants, 3)
        assert calls == ["a", "b", "b", "a", "a", "b"]
        assert outcomes == {"a": "a", "b": "b"}
        assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}

    def test_ratios_are_of_medians_and_their_spread_is_of_rounds(self):
        found = ratios({"ours": [1.0, 2.0, 4.0], "peer": [3.0, 3.0, 20.0]})
        assert found["ours"] == (1, 1, 1)
        assert found["peer"] == (1.5, 1.5, 5)

    def test_a_refused_contestant_has_no_ratio(self):
        result = Result("", {"ours": [1.0], "peer": [2.0]})
        result.refuse({"peer": "it did nothing"})
        assert result.as_dict()["ratios"].keys() == {"ours"}
        assert result.as_dict()["refused"] == {"peer": "it did nothing"}


class TestSameWork:
    def test_ball(self):
        x = torch.full((1, 3, 2, 2), 0.5)
        check_ball(x + 0.1, x, 0.1)
        for moved, match in (
            (x + 0.2, r"images are 0\.2"),
            (x, r"images are 0\.0"),
            (x * math.nan, "images are nan"),
        ):
            with pytest.raises(DifferentWorkError, match=match):
                check_ball(moved, x, 0.1)
        with pytest.raises(DifferentWorkError, match=r"not in \[0, 1\]"):
            check_ball(x + 0.6, x, 0.6)

    def test_verdicts(self):
        reference = torch.arange(100) < 50
        check_verdicts(reference, reference)
        check_verdicts(reference.roll(10), reference)  # other images, but as many
        check_verdicts(torch.arange(100) < 58, reference)
        with pytest.raises(DifferentWorkError, match=r"accuracy 70\.0% instead of 50\.0%"):
            check_verdicts(torch.arange(100) < 70, reference)

    def test_a_peer_that_cheats_is_left_out(self, subject, monkeypatch):
        def too_far(network, x, y, sizes):
            return peers.plain_loop(network, x, y, sizes._replace(eps=2 * sizes.eps))

        def idle(network, x, y, sizes):
            return x

        def noise(network, x, y, sizes):
            return (x + sizes.eps * torch.randn_like(x).sign()).clamp(0, 1)

        cheats = {"too far": too_far, "idle": idle, "noise": noise}
        for name, attack in cheats.items():
            monkeypatch.setitem(peers.PEERS, name, peers.Peer(attack))
        refused = admit(subject._replace(peers=[*cheats, peers.PLAIN]), TINY)
        assert refused.keys() == cheats.keys()
        assert "images are 0.06" in refused["too far"]
        assert "the loss rises by" in refused["noise"]

    def test_a_row_that_disagrees_is_left_out(self):
        ours = torch.zeros(2, 40, dtype=torch.bool)
        other = torch.stack([ours[0], ~ours[1]])
        result = Result("", {name: [1.0] for name in (OURS, "same", "other")})
        _compare(result, {OURS: ours, "same": ours, "other": other}, ["a", "b"])
        assert result.refused.keys() == {"other"}
        with pytest.raises(DifferentWorkError):
            _compare(result, {OURS: ours, REFERENCE: other}, ["a", "b"])


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_finds_what_we_find(subject, name):
    if name not in peers.installed():
        pytest.skip(f"{name} is not installed")
    peer = peers.PEERS[name]
    x = subject.x.contiguous(memory_format=peer.layout)
    sizes = peers.Sizes(steps=5, random_start=False)
    theirs = peer.attack(copy_for(name, subject.network), x, subject.y, sizes)
    ours = pgd(subject.network, subject.x, subject.y, **sizes._asdict())
    # but for rare signs of a zero gradient
    assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.01
    assert admit(subject._replace(peers=[name]), TINY) == {}


@pytest.mark.parametrize("benchmark", [table_row, step_curve])
def test_attacks_compare_the_same_work(subject, benchmark):
    (result,) = benchmark(subject, TINY)
    assert result.refused == {}
    assert set(result.seconds) >= {*ENGINES, *subject.peers}
    natural, *_, worst = result.details["accuracies"][OURS]
    assert natural >= worst


def test_a_training_step(subject):
    weights = subject.network.state_dict()
    before = {name: each.clone() for name, each in weights.items()}
    results = training_step(subject, TINY)
    assert [result.title for result in results] == [
        f"training step, {method}-10" for method in ("PGD", "ALP", "LRM")
    ]
    for result in results:
        losses = dict(result.details["loss"])
        assert losses.pop(NO_ATTACK) < losses[REFERENCE]
        ours = losses[REFERENCE]
        # On LRM's mixed images peers attack the first label alone.
        tolerance = 0.2 if "LRM" in result.title else 0.03
        assert all(abs(loss - ours) < tolerance * ours for loss in losses.values()), losses
    # Everyone trained a copy.
    assert all(torch.equal(before[name], each) for name, each in weights.items())


def test_it_runs_and_writes(subject, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.prepare", lambda settings: subject)
    out = tmp_path / "bench.json"
    sizes = ["--images=8", "--batch=8", f"--threads={torch.get_num_threads()}"]
    main(["--quick", "table-row", *sizes, f"--out={out}"])
    found = json.loads(out.read_text())
    (result,) = found["benchmarks"]["table-row"]
    assert result["ratios"].keys() == {*ENGINES, *OWN_LOOPS}
    assert {"git", "hardware", "versions", "settings", "command"} <= found.keys()
    assert "row of Table 1" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["speed"], ["--rounds=0"], ["--images=1000"], ["--model=vgg"]])
def test_a_wrong_size_is_one_line(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(wrong)
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m benchmarks: error:")
