"""What is recorded, what is copied, and, on a GPU, that a replayed attack is the attack."""

import copy

import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.engine import Replayed, attack_view
from lrm_lightning.engine.graphs import MOST


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


def test_it_is_the_function_of_each_input(recorder):
    double = Replayed(lambda x, y: 2 * x + y, recorder=recorder)
    results = [double(torch.tensor([value]), torch.tensor([0.5])) for value in (1.0, 2.0, 3.0)]
    assert torch.cat(results).tolist() == [2.5, 4.5, 6.5]  # none overwritten by a later one
    assert len(recorder.inputs) == 1


def test_inputs_are_neither_kept_nor_changed(recorder):
    x = torch.ones(3)
    Replayed(torch.neg, recorder=recorder)(x)
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
def test_other_inputs_are_recorded_anew(other, recorder):
    negative = Replayed(torch.neg, recorder=recorder)
    negative(torch.ones(3, 4, 5, 5))
    assert negative(other).equal(-other)
    assert len(recorder.inputs) == 2
    (last,) = recorder.inputs[-1]
    assert last.stride() == other.stride()


def test_another_key_is_recorded_anew(recorder):
    negative = Replayed(torch.neg, recorder=recorder)
    for key in (1, 2, 1):
        negative(torch.ones(3), key=key)
    assert len(recorder.inputs) == 2


def test_beyond_the_most_recordings_it_is_called(recorder):
    negative = Replayed(torch.neg, recorder=recorder)
    for count in range(1, MOST + 3):
        assert negative(torch.ones(count)).equal(-torch.ones(count))
    assert len(recorder.inputs) == MOST


def test_weights_are_read_at_every_replay(network, images, recorder):
    x, y = images
    attack = PGDAttack(eps=0.1, step_size=0.03, steps=3, random_start=False)

    def function(x, y):
        return attack(attack_view(network, "fast"), x, y)

    replayed = Replayed(function, recorder=recorder)
    before = replayed(x, y)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-1)
    torch.testing.assert_close(replayed(x, y), attack(network, x, y))
    assert not replayed(x, y).equal(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_replayed_attack_is_the_attack(network, images):
    x, y = (each.cuda() for each in images)
    network = copy.deepcopy(network).cuda()
    attack = PGDAttack(eps=0.1, step_size=0.03, steps=3)
    replayed = Replayed(lambda x, y, start: attack(attack_view(network, "fast"), x, y, start=start))
    for seed in range(3):
        start = x + attack.draw_start(
            x.shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda"
        )
        expected = attack(network, x, y, start=start)
        torch.testing.assert_close(replayed(x, y, start), expected, rtol=0, atol=1e-9)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.01)
