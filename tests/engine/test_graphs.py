"""What is recorded, what is copied, and, on a GPU, that a replayed attack is the attack."""

import copy
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.engine import Replayed, attack_view
from lrm_lightning.engine.graphs import MOST, record_cuda


@pytest.fixture
def recorder():
    """Stands in for a CUDA graph: fixed inputs, and a result that always lies in one place."""

    def record(function, inputs):
        result = function(*inputs)
        record.inputs.append(inputs)

        def replay():
            return result.copy_(function(*inputs))

        return replay

    record.inputs = []
    return record


@pytest.fixture
def replayed(recorder):
    """Function: what is replayed of a function, and of a module that it reads."""

    def make(function, module=None, **settings):
        settings = {"what": "the sum", "recorder": recorder, "device": "cpu"} | settings
        return Replayed(function, module or torch.nn.Module(), **settings)

    return make


def test_it_is_the_function_of_each_input(recorder, replayed):
    double = replayed(lambda x, y: 2 * x + y)
    inputs = [(torch.tensor([value]), torch.tensor([0.5])) for value in (1.0, 2.0, 3.0)]
    assert [double(*each).item() for each in inputs] == [2.5, 4.5, 6.5]
    assert len(recorder.inputs) == 1


def test_inputs_are_neither_kept_nor_changed(recorder, replayed):
    x = torch.ones(3)
    replayed(torch.neg)(x)
    ((mine,),) = recorder.inputs
    assert mine.data_ptr() != x.data_ptr()
    assert x.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(3, 4, 5, 5, dtype=torch.float64),
        torch.ones(2, 4, 5, 5),
        torch.ones(3, 4, 5, 5).contiguous(memory_format=torch.channels_last),
    ],
    ids=["type", "shape", "layout"],
)
def test_other_inputs_are_recorded_anew(other, recorder, replayed):
    negative = replayed(torch.neg)
    negative(torch.ones(3, 4, 5, 5))
    assert negative(other).equal(-other)
    assert len(recorder.inputs) == 2
    (last,) = recorder.inputs[-1]
    assert last.stride() == other.stride()


def _moved(network):
    network[0].weight.data = network[0].weight.data.clone()


@pytest.mark.parametrize(
    "change",
    [_moved, lambda network: network.eval(), lambda network: network[0].requires_grad_(False)],
    ids=["place", "mode", "frozen"],
)
def test_a_changed_module_is_recorded_anew(change, recorder, replayed):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    passed, x = replayed(lambda x: network(x).detach(), network), torch.eye(3)
    passed(x)
    assert passed(x).equal(network(x))
    assert len(recorder.inputs) == 1
    change(network)
    assert passed(x).equal(network(x))
    assert len(recorder.inputs) == 2


def test_under_autocast_it_is_recorded_anew_and_no_cast_is_kept(recorder, replayed):
    network, cached = torch.nn.Linear(3, 2), []

    def function(x):
        cached.append(torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled())
        return network(x).detach()

    passed, x = replayed(function, network), torch.ones(1, 3)
    assert passed(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cached.clear()
        assert passed(x).dtype == torch.bfloat16
        assert torch.is_autocast_cache_enabled()
    assert cached[0] is False
    assert passed(x).dtype == torch.float32
    assert len(recorder.inputs) == 2


def test_beyond_the_most_recordings_it_is_not_replayed_until_they_are_forgotten(recorder, replayed):
    negative = replayed(torch.neg)
    for count in range(1, MOST + 1):
        assert negative(torch.ones(count)).equal(-torch.ones(count))
    assert negative(torch.ones(MOST + 1)) is None
    assert negative(torch.ones(1)).equal(-torch.ones(1))
    assert len(recorder.inputs) == MOST
    negative.forget()
    assert negative(torch.ones(MOST + 1)).equal(-torch.ones(MOST + 1))


def test_only_inputs_on_the_recorders_devices_are_recorded(recorder, replayed):
    elsewhere = replayed(torch.neg, device="cuda")
    assert not elsewhere.ready(torch.device("cpu"))
    assert elsewhere(torch.ones(3)) is None
    assert recorder.inputs == []


def test_where_hooks_would_be_left_out_nothing_is_replayed(recorder, replayed):
    network, seen = torch.nn.Linear(3, 2), []
    passed = replayed(lambda x: network(x).detach(), network)
    passed(torch.ones(1, 3))
    hook = network.register_forward_hook(lambda *_: seen.append(1))
    assert passed(torch.ones(1, 3)) is None
    hook.remove()
    assert passed(torch.ones(1, 3)) is not None
    assert len(recorder.inputs) == 1
    assert seen == []


def test_a_recording_that_fails_is_warned_of_once_and_changes_nothing(replayed):
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))
    network[0].weight.grad = given = torch.ones(3)
    before = copy.deepcopy(network.state_dict())

    def broken(function, inputs):
        function(*inputs)
        network[0].running_mean = torch.ones(3)
        network[0].weight.grad = None
        raise RuntimeError("not permitted while capturing\nat line 3")

    passed, state = replayed(lambda x: network(x), network, recorder=broken), torch.get_rng_state()
    with pytest.warns(
        UserWarning, match=r"^engine=fast: the sum is not recorded: not permitted while capturing$"
    ):
        assert passed(torch.randn(4, 3, generator=torch.Generator())) is None
    assert passed(torch.ones(5, 3)) is None  # would be another recording: none is tried
    assert not passed.ready(torch.device("cpu"))
    assert network[0].weight.grad is given
    assert torch.get_rng_state().equal(state)
    for name, value in network.state_dict().items():
        assert value.equal(before[name]), name


def test_a_failed_recording_leaves_the_others(recorder, replayed):
    def record(function, inputs):
        if len(inputs[0]) == 2:
            raise RuntimeError("no")
        return recorder(function, inputs)

    negative = replayed(torch.neg, recorder=record)
    negative(torch.ones(3))
    with pytest.warns(UserWarning, match="no$"):
        assert negative(torch.ones(2)) is None
    assert negative(torch.ones(3)).tolist() == [-1, -1, -1]


def test_a_function_that_replaces_a_buffer_is_not_recorded(replayed):
    network = torch.nn.BatchNorm1d(3)
    kept = network.running_mean

    def function(x):
        network.running_mean = network.running_mean + x.mean(0)
        return network.running_mean

    with pytest.warns(UserWarning, match="a buffer is replaced"):
        assert replayed(function, network)(torch.ones(2, 3)) is None
    assert network.running_mean is kept
    assert kept.tolist() == [0, 0, 0]


def test_weights_are_read_at_every_replay(network, images, replayed):
    x, y = images
    attack = PGDAttack(eps=0.1, step_size=0.03, steps=3, random_start=False)

    def function(x, y):
        return attack(attack_view(network, "fast"), x, y)

    attacked = replayed(function, network)
    before = attacked(x, y).clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-1)
    torch.testing.assert_close(attacked(x, y), attack(network, x, y))
    assert not attacked(x, y).equal(before)


class Cuda:
    """Notes what is asked of ``torch.cuda``, and which stream is the current one."""

    def __init__(self, monkeypatch):
        self.notes, self.current = [], "main"
        for name in ("Stream", "current_stream", "stream", "graph", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def Stream(self):  # noqa: N802
        return SimpleNamespace(name="aside", wait_stream=partial(self._wait, "aside"))

    def current_stream(self):
        return SimpleNamespace(name="main", wait_stream=partial(self._wait, "main"))

    def CUDAGraph(self):  # noqa: N802
        return SimpleNamespace(replay=lambda: self.notes.append("replay"))

    def _wait(self, mine, other):
        self.notes.append(f"{mine} waits for {other.name}")

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, *, stream):
        self.notes.append(f"capture on {stream.name}")
        self.current = stream.name  # as torch does, which forgets it where a capture fails
        yield
        self.notes.append("captured")


def test_a_capture_is_warmed_up_aside_and_what_follows_waits_for_it(monkeypatch):
    cuda, x = Cuda(monkeypatch), torch.ones(2)
    replay = record_cuda(lambda x: cuda.notes.append(cuda.current) or -x, (x,))
    before = ["aside waits for main", "aside", "aside", "aside"]
    captured = ["capture on aside", "aside", "captured", "main waits for aside"]
    assert cuda.notes == before + captured
    assert cuda.current == "main"
    result = replay()
    assert replay() is result
    assert cuda.notes[8:] == ["replay", "replay"]


def test_after_a_capture_that_fails_the_stream_is_the_one_before(monkeypatch):
    cuda = Cuda(monkeypatch)

    def function(x):
        if "capture on aside" in cuda.notes:
            raise RuntimeError("not permitted while capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        record_cuda(function, (torch.ones(2),))
    assert cuda.current == "main"
    assert cuda.notes[-1] == "main waits for aside"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_replayed_attack_is_the_attack(network, images):
    x, y = (each.cuda() for each in images)
    network = copy.deepcopy(network).cuda()
    attack = PGDAttack(eps=0.1, step_size=0.03, steps=3)
    replayed = Replayed(
        lambda x, y, start: attack(attack_view(network, "fast"), x, y, start=start),
        network,
        what="the attack",
    )
    for seed in range(3):
        start = x + attack.draw_start(
            x.shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda"
        )
        expected = attack(network, x, y, start=start)
        torch.testing.assert_close(replayed(x, y, start), expected, rtol=0, atol=1e-9)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.01)
