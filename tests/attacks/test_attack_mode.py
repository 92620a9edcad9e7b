import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lrm_lightning.attacks import pgd
from lrm_lightning.attacks.base import attack_mode
from lrm_lightning.attacks.forward import exact_arithmetic

ATTACK = {"eps": 0.05, "step_size": 0.02, "steps": 2}


def state_of(model):
    """Everything an attack must leave as it was."""
    tensors = copy.deepcopy([*model.state_dict().values(), *(p.grad for p in model.parameters())])
    flags = [
        (module.training, getattr(module, "track_running_stats", None))
        for module in model.modules()
    ]
    return flags, [parameter.requires_grad for parameter in model.parameters()], tensors


class Explodes(nn.Module):
    def forward(self, x):
        raise RuntimeError("boom")


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(network, batch, bn_mode, fails):
    # Modes and flags that no blanket train(), eval() or requires_grad_() would restore.
    network.train()
    network[3].eval()
    network[0].weight.requires_grad_(False)
    for number, parameter in enumerate(network.parameters()):
        parameter.grad = torch.full_like(parameter, number) if number % 2 else None
    network = network.append(Explodes()) if fails else network
    flags, trainable, tensors = state_of(network)
    with pytest.raises(RuntimeError, match="boom") if fails else nullcontext():
        pgd(network, *batch, **ATTACK, bn_mode=bn_mode)
    flags_after, trainable_after, tensors_after = state_of(network)
    assert (flags_after, trainable_after) == (flags, trainable)
    for after, before in zip(tensors_after, tensors, strict=True):
        assert (after is None and before is None) or torch.equal(after, before)


def test_inside_parameters_are_frozen_and_gradients_are_enabled(network):
    with torch.inference_mode(), attack_mode(network):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_train_mode_is_for_batch_norm_alone(network):
    with attack_mode(network, "train"):
        training = [type(module) for module in network.modules() if module.training]
    assert training == [nn.BatchNorm2d, nn.BatchNorm2d]


def test_train_mode_normalises_with_the_batch(network, batch):
    x, _ = batch
    with attack_mode(network, "train"):
        hidden = network[:2](x)
    bn = network[1]
    normal = (hidden - bn.bias.view(1, -1, 1, 1)) / bn.weight.view(1, -1, 1, 1)
    torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
    assert not torch.allclose(hidden, network[:2](x))


def test_a_network_that_overrides_train_is_left_alone(network, batch):
    class Stubborn(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError("an attack must not call train()")

    pgd(Stubborn(*network), *batch, **ATTACK)


def test_attack_ignores_the_mode_it_finds(network, batch):
    # Dropout is off and running statistics are used even while the network trains.
    runs = []
    for training in (False, True):
        network.train(training)
        runs.append(pgd(network, *batch, **ATTACK, random_start=False))
    assert torch.equal(*runs)


def test_unknown_bn_mode(network):
    with (
        pytest.raises(ValueError, match="bn_mode='batch' is unknown"),
        attack_mode(network, "batch"),
    ):
        pass


def test_exact_arithmetic_holds_inside_and_is_left_as_it_was_found():
    def settings():
        cudnn = torch.backends.cudnn
        matmul = torch.get_float32_matmul_precision()
        return matmul, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic

    torch.set_float32_matmul_precision("medium")
    try:
        before = settings()
        with torch.autocast("cpu", dtype=torch.bfloat16), exact_arithmetic():
            assert settings() == ("highest", False, False, True)
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
