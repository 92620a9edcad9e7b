import pytest
import torch

from lrm_lightning.attacks.norms import NORMS, draw_start


def draw(norm, shape, *, eps=0.3, seed=0):
    return draw_start(
        NORMS[norm],
        torch.Size(shape),
        eps=eps,
        generator=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
    )


def assert_uniform(values):
    """Kolmogorov-Smirnov against U(0, 1): the statistic exceeds 1.95 / sqrt(n) once in 1,000."""
    ordered = values.sort().values
    ranks = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert (ordered - ranks).abs().max() < 1.95 / len(ordered) ** 0.5


def test_linf_start_is_uniform_in_every_pixel():
    delta = draw("linf", (500, 1, 2, 4))
    assert delta.abs().max() <= 0.3
    assert_uniform((delta.flatten() / 0.3 + 1) / 2)


def test_l2_start_is_uniform_in_the_ball():
    shape = (4000, 1, 2, 3)
    delta = draw("l2", shape)
    radius = delta.flatten(1).norm(dim=1) / 0.3
    assert radius.max() <= 1 + 1e-6
    # The share of a ball's volume inside radius r is r^d: this is what distinguishes a uniform ball
    # from a Gaussian, a sphere, or a uniform radius.
    assert_uniform(radius**6)
    direction = delta.flatten(1) / delta.flatten(1).norm(dim=1, keepdim=True)
    assert direction.mean(dim=0).abs().max() < 0.03
    torch.testing.assert_close(direction.T @ direction / 4000, torch.eye(6) / 6, atol=0.02, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_start_depends_on_the_seed_alone(norm):
    assert torch.equal(draw(norm, (2, 3, 4, 4), seed=1), draw(norm, (2, 3, 4, 4), seed=1))
    assert not torch.equal(draw(norm, (2, 3, 4, 4), seed=1), draw(norm, (2, 3, 4, 4), seed=2))


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e-20, 1e-30, 1e-37])
def test_l2_direction_is_the_unit_gradient_at_every_scale(scale):
    gradient = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = gradient / gradient.flatten(1).norm(dim=1).view(3, 1, 1, 1)
    steepest = NORMS["l2"].steepest((gradient * scale).float())
    torch.testing.assert_close(steepest.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_direction_of_a_zero_gradient_is_zero(norm):
    gradient = torch.randn(2, 3, 4, 4)
    gradient[1] = 0
    steepest = NORMS[norm].steepest(gradient)
    assert torch.equal(steepest[1], torch.zeros(3, 4, 4))
    assert steepest[0].abs().max() > 0


@pytest.mark.parametrize("norm", NORMS)
def test_direction_has_the_largest_inner_product_with_the_gradient(norm):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(1, 3, 4, 4, generator=generator)
    best = (NORMS[norm].steepest(gradient) * gradient).sum()
    others = torch.randn(1000, 3, 4, 4, generator=generator)
    order = torch.inf if norm == "linf" else 2
    others = others / others.flatten(1).norm(p=order, dim=1).view(-1, 1, 1, 1)
    assert best >= (others * gradient).sum(dim=(1, 2, 3)).max()
    dual = gradient.flatten().norm(p=1 if norm == "linf" else 2)
    torch.testing.assert_close(best, dual)


def test_linf_projection_golden():
    x = torch.tensor([[[[0.5, 0.5, 0.5]]]])
    x_adv = torch.tensor([[[[0.9, 0.45, 0.0]]]])
    projected = NORMS["linf"].project(x_adv, x, 0.1)
    torch.testing.assert_close(projected, torch.tensor([[[[0.6, 0.45, 0.4]]]]))


def test_l2_projection_golden():
    x = torch.full((2, 1, 1, 2), 0.5)
    x_adv = torch.tensor([[[[3.5, 4.5]]], [[[0.53, 0.54]]]])
    projected = NORMS["l2"].project(x_adv, x, 0.1)
    # The first lies 5 away along (0.6, 0.8); the second is within 0.05 and stays.
    torch.testing.assert_close(projected, torch.tensor([[[[0.56, 0.58]]], [[[0.53, 0.54]]]]))
