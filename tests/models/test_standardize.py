import numpy as np
import pytest
import torch

from lrm_lightning.models.standardize import ChannelNormalization, ImageStandardization


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_image_gets_mean_zero_and_biased_deviation_one():
    x = random_images(3, 3, 8, 8) * torch.tensor([0.3, 0.5, 1.0]).view(3, 1, 1, 1)
    out = ImageStandardization()(x).numpy().reshape(3, -1)
    np.testing.assert_allclose(out.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(out.std(axis=1), 1, rtol=1e-12)


def test_an_image_is_standardised_by_itself():
    x = random_images(4, 3, 8, 8)
    standardize = ImageStandardization()
    torch.testing.assert_close(standardize(x)[2:3], standardize(x[2:3]))


def test_a_faint_image_is_divided_by_the_floor():
    values = 3 * 8 * 8
    x = 0.5 + 1e-4 * random_images(1, 3, 8, 8)
    torch.testing.assert_close(ImageStandardization()(x), (x - x.mean()) * values**0.5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_becomes_zeros_with_a_finite_gradient(value):
    x = torch.full((1, 3, 32, 32), value, requires_grad=True)
    out = ImageStandardization()(x)
    assert out.abs().max() < 1e-4
    (gradient,) = torch.autograd.grad((out * torch.linspace(0, 1, 3072).view_as(x)).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1


def test_gradient():
    x = random_images(2, 3, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(ImageStandardization(), x)


def test_channel_normalization_against_numpy():
    x = random_images(2, 3, 4, 4)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = (x.numpy() - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(ChannelNormalization(mean, std).double()(x), expected, rtol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,))])
def test_channel_normalization_rejects(mean, std):
    with pytest.raises(ValueError, match="std"):
        ChannelNormalization(mean, std)
