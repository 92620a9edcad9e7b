"""Which images, and where attacks on them begin."""

import numpy as np
import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import ImageSplit
from lrm_lightning.evaluation.images import pick, starts


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSplit(images, torch.arange(50) % 10)


def test_seed_fixes_the_subset(split):
    one, same, other = (pick(split, n_images=20, seed=seed) for seed in (0, 0, 1))
    assert one.index.tolist() == same.index.tolist()
    assert one.index.tolist() != other.index.tolist()
    assert len(set(one.index)) == 20
    assert sorted(one.index) == one.index.tolist()
    assert torch.equal(one.x, split.images[one.index].float() / 255)
    assert torch.equal(one.y, split.labels[one.index])


def test_smaller_subset_is_a_part_and_shows_the_same_images(split):
    small, large, everything = (pick(split, n_images=n, seed=3) for n in (10, 30, None))
    assert set(small.index) < set(large.index) < set(everything.index) == set(range(50))
    assert len(small.shown) == 8
    assert small.index[small.shown].tolist() == everything.index[everything.shown].tolist()


def test_no_more_than_there_are(split):
    assert len(pick(split, n_images=1000, seed=0).y) == 50


@pytest.mark.parametrize("wrong", [{"n_images": 0}, {"n_images": 2.5}, {"seed": -1}])
def test_wrong_setting(split, wrong):
    with pytest.raises(ValueError, match="must be a whole number"):
        pick(split, **{"n_images": 5, "seed": 0} | wrong)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_start_depends_on_the_image_alone(split, norm):
    attack = PGDAttack(norm=norm, eps=0.2)
    large, small = (pick(split, n_images=n, seed=0) for n in (40, 15))
    everywhere = starts(attack, large, np.arange(40), 0, "purpose", 1)
    place = int(np.flatnonzero(large.index == small.index[7])[0])
    here = starts(attack, small, np.array([2, 7]), 0, "purpose", 1)
    assert torch.equal(here[1], everywhere[place])
    delta = everywhere - large.x
    size = delta.abs().flatten(1).amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
    assert size.max() <= 0.2 + 1e-6
    assert size.min() > 0.1
    for key in ((1, "purpose", 1), (0, "other", 1), (0, "purpose", 2)):
        assert not torch.equal(starts(attack, small, np.array([2, 7]), *key), here)
