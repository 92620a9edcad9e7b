"""The fast view of a network is the network, as far as attacks can tell."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.models.resnet import ResNet
from lrm_lightning.models.view import attack_view


def _logits_and_gradient(network, x, y):
    leaf = x.clone().requires_grad_()
    logits = network(leaf)
    return logits.detach(), torch.autograd.grad(F.cross_entropy(logits, y), leaf)[0]


def test_logits_and_gradients_are_the_networks(network, images):
    view = attack_view(network, "fast")
    assert view is not network
    for mine, its in zip(
        _logits_and_gradient(view, *images), _logits_and_gradient(network, *images), strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)


def test_in_single_precision_they_agree_to_rounding(network, images):
    x, y = images
    network, x = network.float(), x.float()
    logits, gradient = _logits_and_gradient(attack_view(network, "fast"), x, y)
    true_logits, true_gradient = _logits_and_gradient(network, x, y)
    torch.testing.assert_close(logits, true_logits, rtol=1e-4, atol=1e-4)
    assert (gradient - true_gradient).norm() < 1e-3 * true_gradient.norm()


def _in_bfloat16(network, x, y, engine):
    """Logits and gradient in the precision that training with ``bf16-mixed`` attacks in."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.clone().requires_grad_()
        logits = attack_view(network, engine)(leaf).float()
        loss = F.cross_entropy(logits, y)
    return logits.detach(), torch.autograd.grad(loss, leaf)[0]


def test_under_autocast_it_is_as_close_to_the_truth_as_the_network_is(network, images):
    x, y = images
    truth = _logits_and_gradient(network, x, y)
    network, x = network.float(), x.float()
    for mine, its, true in zip(
        _in_bfloat16(network, x, y, "fast"),
        _in_bfloat16(network, x, y, "reference"),
        truth,
        strict=True,
    ):
        off, reference_off = ((each.double() - true).norm() / true.norm() for each in (mine, its))
        assert 1e-5 < off < max(2 * reference_off, 0.01)  # below: not in bfloat16 at all
    assert mine.dtype == torch.float32


def test_batch_norm_in_bfloat16_gets_an_eps_that_every_torch_takes(network, images, monkeypatch):
    given = []
    batch_norm = F.batch_norm

    def noted(*arguments, eps, **more):
        given.append(eps)
        return batch_norm(*arguments, eps=eps, **more)

    monkeypatch.setattr(F, "batch_norm", noted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attack_view(network.float(), "fast")(images[0].float())
    assert given
    assert min(given) > 0


def test_autocast_leaves_double_precision_alone(network, images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = _logits_and_gradient(attack_view(network, "fast"), *images)
    torch.testing.assert_close(logits, network(images[0]).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_find_the_same_images(network, images, norm):
    eps = 0.1 if norm == "linf" else 2.0
    settings = {"norm": norm, "eps": eps, "step_size": eps / 4, "steps": 7, "random_start": False}
    plain, fast = (PGDAttack(**settings, engine=engine) for engine in ("reference", "fast"))
    assert not fast(network, *images).equal(images[0])
    torch.testing.assert_close(fast(network, *images), plain(network, *images), rtol=0, atol=1e-9)
    mine, its = (each.trajectory(network, *images, [1, 3, 7]) for each in (fast, plain))
    assert not mine.logits.equal(its.logits)  # two computations, equal to rounding
    for step in (1, 3, 7):
        torch.testing.assert_close(mine.iterates[step].logits, its.iterates[step].logits)


def test_layouts_no_grad_and_inference_mode_make_no_difference(network, images):
    x, y = images
    view, logits = attack_view(network, "fast"), network(x).detach()
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(view(x.contiguous(memory_format=layout)), logits)
    with torch.inference_mode():
        view = attack_view(network, "fast")
    torch.testing.assert_close(_logits_and_gradient(view, x, y)[0], logits)


def test_the_network_is_left_alone_and_its_weights_are_copied_as_they_are(network, images):
    x, y = images
    saved, before = copy.deepcopy(network.state_dict()), network(x)
    view = attack_view(network.train(), "fast")
    _logits_and_gradient(view, x, y)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(value.equal(saved[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(view(x), before)
    changed = network.eval()(x)
    torch.testing.assert_close(attack_view(network, "fast")(x), changed)
    assert not changed.allclose(before)


def test_a_second_derivative_is_refused(network, images):
    x, y = images
    leaf = x.clone().requires_grad_()
    loss = F.cross_entropy(attack_view(network, "fast")(leaf), y)
    with pytest.raises(RuntimeError, match="engine='reference'"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def test_auto_is_fast_on_a_cpu_and_reference_is_the_network(network):
    assert attack_view(network, "auto") is not network
    assert attack_view(network, "reference") is network
    with pytest.raises(ValueError, match="engine='quick' is unknown"):
        attack_view(network, "quick")


def test_what_cannot_be_folded_is_attacked_itself(network):
    class Changed(ResNet):
        def forward(self, x):
            return -super().forward(x)

    for foreign in (Changed(depth=1), nn.Flatten(), nn.Linear(3, 2)):
        assert attack_view(foreign, "fast") is foreign
    with torch.autocast("cpu", dtype=torch.float16):
        assert attack_view(network.float(), "fast") is network
    hook = network.stem.register_forward_hook(lambda *_: None)
    assert attack_view(network, "fast") is network
    hook.remove()
    assert attack_view(network, "fast") is not network
    half = copy.deepcopy(network).bfloat16()
    assert attack_view(half, "fast") is half
