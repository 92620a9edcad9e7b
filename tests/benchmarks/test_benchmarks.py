"""The benchmark's arithmetic, what it refuses to compare, and that it runs at all."""

import copy
import json
import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from benchmarks import entrants, peers, profile
from benchmarks.__main__ import ceiling, main
from benchmarks.convolutions import Limit, convolutions, limit
from benchmarks.growth import exponent
from benchmarks.lines import step_curve, table_row, training_step
from benchmarks.result import Result
from benchmarks.same_work import DifferentWorkError, check_ball, check_runs, check_verdicts
from benchmarks.settings import Settings, parse
from benchmarks.subject import prepare
from benchmarks.timing import interleaved, order, ratios
from lrm_lightning.attacks import pgd

# Peers are older than the libraries they run on.
pytestmark = pytest.mark.filterwarnings("ignore")

TINY = Settings(
    model="resnet_tiny",
    rounds=1,
    images=12,
    batch=6,
    pretraining=60,
    pretraining_lr=1e-2,
    curve_steps=20,
    repeats=1,
)


@pytest.fixture(scope="module")
def subject():
    with torch.random.fork_rng(devices=[]):
        # the peers have tests of their own
        return prepare(TINY)._replace(entrants=[entrants.PLAIN, entrants.DEFAULT_LAYOUT])


class TestTiming:
    def test_everyone_runs_once_a_round_and_each_begins_one(self):
        rounds = order(["a", "b", "c"], 4)
        assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]

    def test_contestants_run_in_that_order(self):
        calls = []
        contestants = {name: lambda name=name: calls.append(name) or name for name in "ab"}
        seconds, outcomes = interleaved(contestants, 3)
        assert calls == ["a", "b", "b", "a", "a", "b"]
        assert outcomes == {"a": "a", "b": "b"}
        assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}

    def test_ratios_are_of_medians_and_their_spread_is_of_rounds(self):
        found = ratios({"ours": [1.0, 2.0, 4.0], "peer": [3.0, 3.0, 20.0]}, "ours")
        assert found["ours"] == (1, 1, 1)
        assert found["peer"] == (1.5, 1.5, 5)

    def test_a_refused_contestant_has_no_ratio(self):
        result = Result("", {"ours": [1.0], "peer": [2.0]})
        result.refuse({"peer": "it did nothing"})
        assert result.as_dict()["ratios"].keys() == {"ours"}
        assert result.as_dict()["refused"] == {"peer": "it did nothing"}


class TestConvolutions:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, groups=2))
    x = torch.zeros(2, 3, 8, 8)
    first = 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3)
    second = 2 * (2 * 8 * 3 * 3) * (2 * 3 * 3)

    def test_flops_by_hand(self):
        found = [each.flops for each in convolutions(self.network, self.x)]
        assert found == [self.first, self.second]

    def test_hooks_are_gone(self):
        convolutions(self.network, self.x)
        assert not any(module._forward_hooks for module in self.network.modules())

    def test_hidden_gradients_leave_out_the_image(self):
        found = limit(self.network, self.x, repeats=1)
        both = self.first + self.second
        assert found.flops == {
            "forward": both,
            "input": both,
            "hidden": self.second,
            "weights": both,
        }
        assert found.images == 2
        assert all(seconds > 0 for seconds in (*found.seconds.values(), *found.in_order.values()))
        assert found.in_order.keys() == {"forward", "input"}

    def test_share_of_the_possible(self):
        # 3 forwards of 2 GFLOP and a backward of 2, over 2 batches: 16 GFLOP
        seconds = {"forward": 1.0, "input": 2.0}
        best = Limit({"forward": 2e9, "input": 2e9}, seconds, {}, images=4)
        reached = best.reached({"forward": 3, "input": 1}, images=8, seconds=20.0)
        assert reached == pytest.approx({"gflops": 0.8, "best_gflops": 1.6, "share": 0.5})

    def test_the_ceiling_leaves_what_is_no_attack_as_it_is(self):
        best = Limit({}, {}, {"forward": 1.0, "input": 2.0}, images=4)
        seconds = {"ours": [9.0], "loss alone": [2.0], "slow": [24.0], "quick": [12.0]}
        passes = {"forward": 3, "input": 1, "weights": 1}
        details = {"passes": passes, "attack_passes": {"forward": 2, "input": 1}}
        result = Result("", seconds, images=4, details=details | {"beside_attack": "loss alone"})
        found = ceiling(result, best, ["slow", "quick", "refused"])
        assert found == {"fastest_peer": "quick", "ceiling": 12 / (2 + 2 * 1 + 2)}


class TestProfile:
    def test_a_convolution_takes_most_of_a_network_of_it(self):
        network, x = nn.Sequential(nn.Conv2d(16, 64, 5), nn.LeakyReLU()), torch.zeros(8, 16, 32, 32)
        found = profile.shares(lambda: network(x).sum().backward())
        assert next(iter(found)) == "convolutions"
        assert found["leaky ReLU"] > 0
        assert sum(found.values()) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("operation", "group"),
        [
            ("aten::mkldnn_convolution", "convolutions"),
            ("aten::convolution_backward", "convolutions"),
            ("aten::leaky_relu_backward", "leaky ReLU"),
            ("aten::native_batch_norm", "batch norm"),
            ("aten::addcmul", "batch norm"),
            ("aten::add_", "sums of the shortcuts"),
            ("aten::addmm", "other"),
        ],
    )
    def test_operations_fall_into_their_groups(self, operation, group):
        assert profile.group(operation) == group


def test_exponent_of_a_power():
    sizes = [1, 2, 4, 8]
    assert exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


class TestSameWork:
    def test_ball(self):
        x = torch.full((1, 3, 2, 2), 0.5)
        check_ball(x + 0.1, x, 0.1)
        with pytest.raises(DifferentWorkError, match=r"images are 0\.2"):
            check_ball(x + 0.2, x, 0.1)
        with pytest.raises(DifferentWorkError, match="are only 0"):
            check_ball(x, x, 0.1)
        with pytest.raises(DifferentWorkError, match="images are nan"):
            check_ball(x * math.nan, x, 0.1)
        with pytest.raises(DifferentWorkError, match=r"not in \[0, 1\]"):
            check_ball(x + 0.6, x, 0.6)

    def test_verdicts(self):
        reference = torch.arange(100) < 50
        check_verdicts(reference, reference)
        check_verdicts(reference.roll(10), reference)  # other images, but as many
        check_verdicts(torch.arange(100) < 58, reference)
        with pytest.raises(DifferentWorkError, match=r"accuracy 70\.0% instead of 50\.0%"):
            check_verdicts(torch.arange(100) < 70, reference)

    def test_runs(self):
        def records(threads, hits, *, smoothing=0.5):
            return [
                {
                    "config": {"method": {"smoothing": smoothing}, "runs_dir": f"{threads}"},
                    "data": {"fingerprint": "digits"},
                    **{"global_step": 39, "epochs": 1, "n": 100, "split": "test"},
                    "metrics": {"clean": hit / 100},
                    "val_metrics": {},
                    "hardware": {"threads": threads},
                }
                for hit in hits
            ]

        two = records(2, (40, 60, 50, 50))
        check_runs(two, records(2, (40, 60, 50, 50)))
        with pytest.raises(DifferentWorkError, match="runs with equal threads differ"):
            check_runs(two, records(2, (40, 60, 50, 51)))
        check_runs(
            two, records(1, (60, 40, 55, 50))
        )  # single runs end anywhere, their mean doesn't
        with pytest.raises(DifferentWorkError, match=r"clean accuracy 50\.0% instead of 70\.0%"):
            check_runs(two, records(1, (70, 70, 70, 70)))
        with pytest.raises(DifferentWorkError, match="differ in configuration or size"):
            check_runs(two, records(1, (40, 60, 50, 50), smoothing=0.4))
        with pytest.raises(DifferentWorkError, match="4 runs, not 3"):
            check_runs(two, records(1, (40, 60, 50)))

    def test_someone_who_cheats_is_left_out(self, subject, monkeypatch):
        def too_far(network):
            attack = peers.plain_loop(network)
            return lambda x, y, *, eps, **sizes: attack(x, y, eps=2 * eps, **sizes)

        def idle(network):
            return lambda x, y, **sizes: x

        def noise(network):
            return lambda x, y, *, eps, **sizes: (x + eps * torch.randn_like(x).sign()).clamp(0, 1)

        cheats = {"too far": too_far, "idle": idle, "noise": noise}
        monkeypatch.setattr(peers, "installed", lambda: cheats)
        refused = entrants.admit(subject.network, subject.x, subject.y, TINY)
        assert refused.keys() == cheats.keys()
        assert "images are 0.06" in refused["too far"]
        assert "the loss rises by" in refused["noise"]

    def test_a_row_that_disagrees_is_left_out(self):
        ours = torch.zeros(2, 40, dtype=torch.bool)
        other = torch.stack([ours[0], ~ours[1]])
        rows = {entrants.OURS: ours, "same": ours, "other": other}
        assert table_row.disagreeing(rows).keys() == {"other"}
        with pytest.raises(DifferentWorkError):
            table_row.disagreeing({entrants.OURS: ours, entrants.REFERENCE: other})


class TestEntrants:
    def test_those_installed_do_the_same_work(self, subject):
        assert entrants.admit(subject.network, subject.x, subject.y, TINY) == {}

    @pytest.mark.parametrize("name", peers.PEERS)
    def test_a_peer_finds_what_we_find(self, subject, name):
        if name in entrants.missing():
            pytest.skip(f"{name} is not installed")
        self.assert_finds_ours(subject, name)

    @pytest.mark.parametrize("name", [entrants.PLAIN, entrants.DEFAULT_LAYOUT])
    def test_the_plain_loop_finds_what_we_find(self, subject, name):
        self.assert_finds_ours(subject, name)

    def assert_finds_ours(self, subject, name):
        competitor = entrants.entrant(name, subject.network)
        x = subject.x.contiguous(memory_format=competitor.layout)
        sizes = {"eps": 0.03, "step_size": 0.0078, "steps": 5, "random_start": False}
        theirs = competitor.attack(x, subject.y, **sizes)
        ours = pgd(subject.network, subject.x, subject.y, **sizes)
        # but for rare signs of a zero gradient
        assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.01
        assert x.is_contiguous(memory_format=competitor.layout)


class TestLines:
    def test_a_row_of_table_1(self, subject):
        (result,) = table_row.measure(subject, TINY)
        assert result.refused == {}
        assert list(result.seconds) == [*entrants.ENGINES, *subject.entrants]
        natural, *_, worst = result.details["accuracies"][entrants.OURS]
        assert natural > worst

    def test_the_step_curve(self, subject):
        (result,) = step_curve.measure(subject, TINY)
        assert result.refused == {}
        start, *_, end = result.details["accuracies"][entrants.OURS]
        assert start >= end
        assert result.images == TINY.fewer_images

    def test_a_training_step(self, subject):
        weights = subject.network.state_dict()
        before = {name: each.clone() for name, each in weights.items()}
        results = training_step.measure(subject, TINY)
        assert [result.title for result in results] == [
            f"training step, {method}-10" for method in ("PGD", "ALP", "LRM")
        ]
        for result in results:
            losses = dict(result.details["loss"])
            assert losses.pop(training_step.NO_ATTACK) < losses[entrants.REFERENCE]
            ours = losses[entrants.REFERENCE]
            # on LRM's mixed images peers attack the first label alone
            tolerance = 0.2 if "LRM" in result.title else 0.03
            assert all(abs(loss - ours) < tolerance * ours for loss in losses.values()), losses
        # everyone trained a copy
        assert all(torch.equal(before[name], each) for name, each in weights.items())

    def test_a_row_passes_each_image_as_often_as_it_says(self, subject):
        with counted(subject.network) as calls:
            table_row.row(subject, TINY, "reference")
        assert len(calls) == TINY.images // TINY.batch * table_row.PASSES["forward"]

    @pytest.mark.parametrize("method", training_step.METHODS)
    def test_a_step_passes_each_image_as_often_as_it_says(self, subject, method):
        network = copy.deepcopy(subject.network)
        defense = training_step.METHODS[method](network, attack=TINY.attack, engine="reference")
        with counted(network) as calls:
            defense.loss_terms(subject.batches["none"])
        passes = training_step.passes(method, TINY.attack.steps)
        assert sum(calls) == passes["forward"] * TINY.batch


@contextmanager
def counted(network):
    """The sizes of all batches that the network sees."""
    calls = []
    hook = network.register_forward_hook(lambda module, inputs, out: calls.append(len(inputs[0])))
    yield calls
    hook.remove()


def test_it_runs_and_writes(subject, tmp_path, capsys, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr("benchmarks.__main__.prepare", lambda settings: subject)
    out = tmp_path / "bench.json"
    sizes = ["--images=8", "--batch=8", f"--threads={threads}"]
    main(["--quick", "--lines=4", *sizes, f"--out={out}"])
    found = json.loads(out.read_text())
    (line,) = found["lines"]["4"]
    assert line["ratios"].keys() == {"our adapter", "pyautoattack", "our adapter, fast engine"}
    assert {"git", "hardware", "versions", "settings", "command"} <= found.keys()
    assert "APGD-CE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--lines=8"], ["--rounds=0"], ["--images=1000"], ["--model=vgg"]]
)
def test_a_wrong_size_is_one_line(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(wrong)
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m benchmarks: error:")
