"""Memory does not grow with the number of steps: nothing of a step outlives the next."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.models import ResNet


@pytest.fixture
def peak(tmp_path):
    """Most bytes of tensors that a call has at a time, as torch's allocator counts them."""
    torch.manual_seed(0)

    def measure(call):
        trace = tmp_path / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            call()
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
        changes = [
            (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
        ]
        taken = most = 0
        for _, size in sorted(changes, key=lambda change: change[0]):
            taken += size
            most = max(most, taken)
        assert most > 0
        return most

    return measure


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("restarts", [1, 2])
def test_an_attack_of_30_steps_takes_what_one_of_10_takes(engine, restarts, peak):
    network = ResNet(depth=1, widths=(4, 4, 8, 8)).eval()
    x, y = torch.rand(8, 3, 8, 8), torch.arange(8)

    def attack(steps):
        attack = PGDAttack(steps=steps, restarts=restarts, engine=engine)
        return peak(lambda: attack(network, x, y))

    attack(2)  # what is made at the first call and kept
    short = attack(10)
    assert attack(30) == pytest.approx(short, rel=0.02)
    # the measurement sees what it should: twice the images take far more memory
    x, y = torch.cat([x, x]), torch.cat([y, y])
    assert attack(10) > 1.5 * short


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_trajectory_keeps_logits_alone(engine, peak):
    network = ResNet(depth=1, widths=(4, 4, 8, 8)).eval()
    x, y = torch.rand(8, 3, 8, 8), torch.arange(8)

    def follow(steps):
        return peak(lambda: PGDAttack(engine=engine).trajectory(network, x, y, [steps]))

    follow(2)
    assert follow(30) == pytest.approx(follow(10), rel=0.02)
