"""Two processes with half a batch each compute what one computes with the whole batch."""

import pytest
import torch
from torch import nn

from lrm_lightning.training.batch_norm_sync import BatchNormSync

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def _layer(dtype):
    """Network, input and the weights of a loss that is no sum over images."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5))
    nn.init.uniform_(network[1].weight)
    nn.init.uniform_(network[1].bias)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.rand(8, 3, 6, 6, dtype=wide)
    return network.to(wide), x, torch.randn(8, 5, 4, 4, dtype=wide)


def _results(network, x, weights, dtype):
    """Output, gradient of the image and of the parameters, and the running statistics."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = network(x)
    (output.float() * weights).sum().backward()
    batch_norm = network[1]
    return {
        "output": output.detach(),
        "x": x.grad,
        **{name: p.grad for name, p in network.named_parameters()},
        "mean": batch_norm.running_mean,
        "variance": batch_norm.running_var,
        "count": batch_norm.num_batches_tracked,
    }


def _both(rank, folder):
    for name, dtype in PRECISIONS.items():
        network, x, weights = _layer(dtype)
        network = BatchNormSync().apply(network)
        rows = slice(4 * rank, 4 * rank + 4)
        torch.save(_results(network, x[rows], weights[rows], dtype), folder / f"{name}-{rank}.pt")
        assert type(BatchNormSync().revert(network)[1]) is nn.BatchNorm2d


@pytest.fixture(scope="module")
def of_two(two_ranks):
    """What the two processes found: ``of_two("float32")``, one dict a process."""
    folder = two_ranks(_both)
    return lambda name: [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", PRECISIONS)
def test_two_processes_are_one(of_two, name):
    dtype = PRECISIONS[name]
    one = _results(*_layer(dtype), dtype)
    two = of_two(name)
    assert two[0]["output"].dtype == one["output"].dtype == dtype
    found = {key: torch.cat([each[key] for each in two]) for key in ("output", "x")}
    for key in ("0.weight", "1.weight", "1.bias"):  # DDP adds them up
        found[key] = two[0][key] + two[1][key]
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-12}[name]
    for key, value in found.items():
        scale = one[key].abs().max().item()
        torch.testing.assert_close(value, one[key], rtol=0, atol=tolerance * max(1, scale), msg=key)
    for key in ("mean", "variance", "count"):
        assert torch.equal(two[0][key], two[1][key])
        torch.testing.assert_close(two[0][key], one[key], rtol=1e-6, atol=1e-6, msg=key)
