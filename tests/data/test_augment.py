import numpy as np
import pytest
import torch

from lrm_lightning.data.augment import crop, draw_crop, draw_flip, flip


def _images(count, height=6, width=5, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, 3, height, width), generator=gen, dtype=torch.uint8)


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_crop_is_slicing_of_the_padded_image_for_every_corner(padding):
    side = 2 * padding + 1
    images = _images(side * side)
    corners = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    crops = crop(images, corners[:, 0], corners[:, 1], padding=padding)
    for image, (top, left), result in zip(images.numpy(), corners.tolist(), crops, strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        np.testing.assert_array_equal(result, padded[:, top : top + 6, left : left + 5])


def test_flip_mirrors_columns_of_the_flagged_images_only():
    images = _images(4)
    flags = torch.tensor([True, False, False, True])
    result = flip(images, flags)
    for row, flagged in enumerate(flags.tolist()):
        wanted = images[row].numpy()[:, :, ::-1] if flagged else images[row].numpy()
        np.testing.assert_array_equal(result[row], wanted)
    assert torch.equal(flip(result, flags), images)


def test_crop_corners_are_uniform():
    size, padding = 9000, 4
    for corners in draw_crop(size, padding=padding, generator=torch.Generator().manual_seed(0)):
        counts = torch.bincount(corners, minlength=2 * padding + 1)
        assert len(counts) == 2 * padding + 1
        chi_square = ((counts - 1000) ** 2 / 1000).sum()
        assert chi_square < 26.1  # 99.9 % quantile with 8 degrees of freedom


def test_top_and_left_are_independent():
    top, left = draw_crop(9000, padding=4, generator=torch.Generator().manual_seed(1))
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.035  # 3.3 standard errors


def test_half_of_the_images_are_flipped():
    share = draw_flip(10_000, generator=torch.Generator().manual_seed(0)).float().mean()
    assert abs(share - 0.5) < 0.0165  # 3.3 standard errors
