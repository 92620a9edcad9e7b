"""Which images, and where attacks on them begin."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from lrm_lightning.attacks import Attack, PGDAttack
from lrm_lightning.data import ImageSplit
from lrm_lightning.evaluation.bench import Bench, pick


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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_start_depends_on_the_image_alone(split, norm):
    attack = PGDAttack(norm=norm, eps=0.2)

    def starts(n_images, places, *key, seed=0):
        bench = Bench(pick(split, n_images=n_images, seed=0), attack, seed)
        return bench.starts(attack, np.asarray(places), *key)

    large, small = (pick(split, n_images=n, seed=0) for n in (40, 15))
    everywhere = starts(40, np.arange(40), "purpose", 1)
    place = int(np.flatnonzero(large.index == small.index[7])[0])
    here = starts(15, [2, 7], "purpose", 1)
    assert here.shape == (1, 2, 3, 4, 4)
    assert torch.equal(here[0, 1], everywhere[0, place])
    delta = everywhere[0] - large.x
    size = delta.abs().flatten(1).amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
    assert size.max() <= 0.2 + 1e-6
    assert size.min() > 0.1
    for seed, *key in ((1, "purpose", 1), (0, "other", 1), (0, "purpose", 2)):
        assert not torch.equal(starts(15, [2, 7], *key, seed=seed), here)


def test_an_attack_without_noise_has_no_start(split):
    bench = Bench(pick(split, n_images=5, seed=0), PGDAttack(random_start=False))
    assert bench.starts(bench.threat, np.arange(5), "purpose") is None


@dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    """Two random starts, of which it takes the second, then far out of the ball."""

    def draw_noise(self, shape, *, generator=None, device="cpu"):
        drawn = [self.threat.draw(shape, generator=generator, device=device) for _ in range(2)]
        return torch.stack(drawn)

    def __call__(self, model, x, y, *, start=None, generator=None):
        assert start.shape == (2, *x.shape)
        self.seen.extend(start[1] - x)
        return start[1] + torch.rand(x.shape, generator=generator)

    seen: list = field(default_factory=list, compare=False)


def test_an_extra_attack_draws_per_image_and_stays_in_the_threat_model(make_bench, images):
    scored = []

    class Remember(torch.nn.Module):
        def forward(self, x):
            scored.extend(x)
            return torch.nn.functional.one_hot(images.y[: len(x)], 4).float()

    def run(correct, batch_size, **fields):
        attack = Shift(eps=0.08)
        bench = make_bench(batch_size=batch_size, extra_attacks={"shift": attack}, **fields)
        scored.clear()
        left = bench.left_by_extras(Remember(), correct)["shift"]
        return left, dict(zip(correct.nonzero()[0].tolist(), attack.seen, strict=True))

    everyone = np.ones(80, bool)
    left, noise = run(everyone, 80)
    assert left.all()
    assert (torch.stack(scored) - images.x).abs().max() <= 0.08 + 1e-6
    few = np.arange(80) % 3 == 0
    left, some = run(few, 7)
    assert not left[~few].any()
    assert set(some) == set(few.nonzero()[0])
    assert all(torch.equal(each, noise[place]) for place, each in some.items())
    assert not torch.equal(run(everyone, 80, seed=1)[1][0], noise[0])
