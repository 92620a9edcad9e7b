"""What each norm gives an attack: noise, a direction, and a projection."""

import pytest
import torch

from lrm_lightning.attacks import ThreatModel

each_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def draw(norm, shape, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ThreatModel(norm, 0.3).draw(shape, generator=generator)


def assert_uniform(values):
    """Kolmogorov-Smirnov against U(0, 1): the statistic exceeds 1.95 / sqrt(n) once in 1,000."""
    ordered = values.sort().values
    ranks = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert (ordered - ranks).abs().max() < 1.95 / len(ordered) ** 0.5


def test_linf_noise_is_uniform_in_every_pixel():
    noise = draw("linf", (500, 1, 2, 4))
    assert noise.abs().max() <= 0.3
    assert_uniform((noise.flatten() / 0.3 + 1) / 2)


def test_l2_noise_is_uniform_in_the_ball():
    noise = draw("l2", (4000, 1, 2, 3)).flatten(1)
    radius = noise.norm(dim=1) / 0.3
    assert radius.max() <= 1 + 1e-6
    # The share of a ball's volume inside radius r is r^d: this is what distinguishes a uniform ball
    # from a Gaussian, a sphere, or a uniform radius.
    assert_uniform(radius**6)
    direction = noise / noise.norm(dim=1, keepdim=True)
    assert direction.mean(dim=0).abs().max() < 0.03
    torch.testing.assert_close(direction.T @ direction / 4000, torch.eye(6) / 6, atol=0.02, rtol=0)


@each_norm
def test_noise_depends_on_the_seed_alone(norm):
    shape = (2, 3, 4, 4)
    assert torch.equal(draw(norm, shape, seed=1), draw(norm, shape, seed=1))
    assert not torch.equal(draw(norm, shape, seed=1), draw(norm, shape, seed=2))


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e-20, 1e-30, 1e-37])
def test_l2_direction_is_the_unit_gradient_at_every_scale(scale):
    gradient = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = gradient / gradient.flatten(1).norm(dim=1).view(3, 1, 1, 1)
    steepest = ThreatModel("l2", 1).steepest((gradient * scale).float())
    torch.testing.assert_close(steepest.double(), expected, atol=1e-6, rtol=1e-5)


@each_norm
def test_direction_has_the_largest_inner_product_with_the_gradient(norm):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(2, 3, 4, 4, generator=generator)
    gradient[1] = 0
    steepest = ThreatModel(norm, 1).steepest(gradient)
    assert not steepest[1].any()
    best = (steepest[0] * gradient[0]).sum()
    others = torch.randn(1000, 3, 4, 4, generator=generator)
    order = torch.inf if norm == "linf" else 2
    others = others / others.flatten(1).norm(p=order, dim=1).view(-1, 1, 1, 1)
    assert best >= (others * gradient[0]).sum(dim=(1, 2, 3)).max()
    dual = gradient[0].flatten().norm(p=1 if norm == "linf" else 2)
    torch.testing.assert_close(best, dual)


def test_linf_projection_golden():
    x = torch.tensor([[[[0.5, 0.5, 0.5, 0.95]]]])
    x_adv = torch.tensor([[[[0.9, 0.45, 0.0, 1.5]]]])
    projected = ThreatModel("linf", 0.1).project(x_adv, x)
    torch.testing.assert_close(projected, torch.tensor([[[[0.6, 0.45, 0.4, 1.0]]]]))


def test_l2_projection_golden():
    x = torch.full((2, 1, 1, 2), 0.5)
    x_adv = torch.tensor([[[[3.5, 4.5]]], [[[0.53, 0.54]]]])
    projected = ThreatModel("l2", 0.1).project(x_adv, x)
    # The first lies 5 away along (0.6, 0.8); the second is within 0.05 and stays.
    torch.testing.assert_close(projected, torch.tensor([[[[0.56, 0.58]]], [[[0.53, 0.54]]]]))


def test_step_is_the_papers_scaled_with_the_radius():
    assert ThreatModel("linf", 0.03).step_size == 0.0078
    assert ThreatModel("l2", 0.5).step_size == 0.13


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("l1", 0.1, "norm='l1' is unknown; choose one of: linf, l2"),
        ("linf", 0, r"eps=0 must be a number > 0 and <= 1 \(radius of the ball"),
        ("linf", 8, "eps=8 must be a number > 0 and <= 1"),
        ("l2", -0.1, r"eps=-0.1 must be a number > 0 \(radius"),
    ],
)
def test_out_of_range(norm, eps, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(norm, eps)
    ThreatModel("l2", 8)
