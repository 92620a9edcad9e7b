"""Batches to train and to evaluate on: shared out to ranks, and resumable."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lrm_lightning.data import ImageSplit
from lrm_lightning.data.batch import Draws
from lrm_lightning.data.loader import Augmentation, EvalLoader, TrainLoader
from lrm_lightning.errors import UserError

CLASSES = 5
AUGMENTATIONS = {
    "nothing": Augmentation(),
    "crop": Augmentation(crop_padding=2),
    "flip": Augmentation(flip=True),
    "mixup": Augmentation(2, True, "mixup", 0.5),
    "vh_mixup": Augmentation(2, True, "vh_mixup"),
}
each_augmentation = pytest.mark.parametrize(
    "augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS
)


def _split(count=53):
    gen = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, 3, 8, 8), generator=gen, dtype=torch.uint8)
    return ImageSplit(images, torch.randint(CLASSES, (count,), generator=gen))


def _eval_loader(count, batch_size, **settings):
    return EvalLoader(_split(count), num_classes=CLASSES, batch_size=batch_size, **settings)


def _eval_loaders(count, batch_size, world_size):
    return [
        _eval_loader(count, batch_size, rank=rank, world_size=world_size, seed=7)
        for rank in range(world_size)
    ]


def _loader(
    augmentation=AUGMENTATIONS["nothing"], *, batch_size=16, epoch=0, split=None, **settings
):
    loader = TrainLoader(
        split or _split(),
        **({"num_classes": CLASSES} | settings),
        batch_size=batch_size,
        augmentation=augmentation,
    )
    loader.sampler.set_epoch(epoch)
    return loader


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size"),
    [
        (103, 10, 1),
        (103, 10, 3),
        (103, 50, 4),  # 3 images left over for 4 ranks
        (5, 500, 4),
        (4, 4, 4),
        (8, 4, 3),
        (9, 4, 4),  # 1 left over
    ],
)
def test_every_image_comes_once_over_all_ranks_and_no_rank_is_ever_empty(
    count, batch_size, world_size
):
    ranks = [list(loader) for loader in _eval_loaders(count, batch_size, world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    positions = []
    for shares in zip(*ranks, strict=True):
        sizes = [len(batch.y) for batch in shares]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert {batch.draws.size for batch in shares} == {sum(sizes)}
        positions.extend(torch.cat([batch.index for batch in shares]).tolist())
    assert positions == list(range(count))


@pytest.mark.parametrize("world_size", [1, 3])
def test_images_to_evaluate_come_as_they_are(world_size):
    split = _split(20)
    for loader in _eval_loaders(20, 8, world_size):
        assert len(loader) == len(list(loader)) == 3
        for batch in loader:
            assert batch.x.dtype == torch.float32
            assert torch.equal(batch.x, split.images[batch.index] / 255)
            assert torch.equal(batch.y, split.labels[batch.index])
            assert torch.equal(batch.targets, F.one_hot(batch.y, CLASSES).float())


def test_draws_name_the_batch_and_the_ranks_rows():
    first, second = (list(loader) for loader in _eval_loaders(21, 8, 2))
    assert first[2].draws == Draws(seed=7, epoch=0, step=2, size=5, first_row=0, end_row=2)
    assert second[2].draws == Draws(seed=7, epoch=0, step=2, size=5, first_row=2, end_row=5)


def test_fewer_images_than_ranks_is_said_in_one_line():
    with pytest.raises(UserError, match=r"^3 images in batches of 500 .* 4 processes: use fewer"):
        _eval_loaders(3, 500, 4)
    with pytest.raises(UserError, match=r"a larger data\.eval_batch_size"):
        _eval_loaders(100, 2, 4)


def test_state_continues_inside_an_epoch_and_only_once():
    loader = _eval_loader(20, 5)
    batches = iter(loader)
    next(batches)
    next(batches)
    state = loader.state_dict()

    resumed = _eval_loader(20, 5)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    iter(resumed)  # Lightning makes iterators only to see that it can
    assert [batch.draws.step for batch in resumed] == [2, 3]
    assert [batch.draws.step for batch in resumed] == [0, 1, 2, 3]


def test_state_of_another_number_of_batches_is_refused():
    state = _eval_loader(20, 5).state_dict()
    other = _eval_loader(20, 10)
    with pytest.raises(UserError, match="made with 4 batches an epoch, but there are 2 now"):
        other.load_state_dict(state)


def _assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for tensor, wanted in zip(batch[:4], other[:4], strict=True):
            assert torch.equal(tensor, wanted)


@each_augmentation
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_put_together_are_exactly_the_single_process(augmentation, world_size):
    whole = list(_loader(augmentation, epoch=3))
    ranks = [
        list(_loader(augmentation, epoch=3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        shares = [batches[step] for batches in ranks]
        for name in ("x", "targets", "y", "index"):
            together = torch.cat([getattr(share, name) for share in shares])
            assert torch.equal(together, getattr(batch, name))
        for rank, share in enumerate(shares):
            rows = (rank * 16 // world_size, (rank + 1) * 16 // world_size)
            assert share.draws == batch.draws._replace(first_row=rows[0], end_row=rows[1])


@each_augmentation
def test_batches_depend_on_seed_and_epoch_alone(augmentation):
    first = list(_loader(augmentation, epoch=1, seed=4))
    torch.rand(7)
    _assert_same(first, _loader(augmentation, epoch=1, seed=4))
    for other in (_loader(augmentation, epoch=2, seed=4), _loader(augmentation, epoch=1, seed=5)):
        assert not torch.equal(first[0].index, next(iter(other)).index)


@each_augmentation
def test_batches_are_well_formed(augmentation):
    split = _split()
    for batch in _loader(augmentation, split=split):
        assert batch.x.shape == (16, 3, 8, 8)
        assert batch.x.dtype == batch.targets.dtype == torch.float32
        assert batch.x.min() >= 0
        assert batch.x.max() <= 1
        assert torch.equal(batch.y, split.labels[batch.index])
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(16))
        assert batch.x.is_contiguous(memory_format=torch.channels_last)
        if augmentation.mixing == "none":
            assert torch.equal(batch.targets, F.one_hot(batch.y, CLASSES).float())
        if augmentation == Augmentation():
            assert torch.equal(batch.x, split.images[batch.index] / 255)


def test_an_epoch_goes_once_through_the_split_and_drops_the_rest():
    loader = _loader()
    positions = torch.cat([batch.index for batch in loader]).tolist()
    assert len(loader) == 3
    assert len(positions) == len(set(positions)) == 48
    assert positions != sorted(positions)
    full = torch.cat([batch.index for batch in _loader(split=_split(64))])
    assert full.sort().values.tolist() == list(range(64))


def test_every_image_is_dropped_in_some_epoch():
    seen = [
        set(torch.cat([b.index for b in _loader(epoch=epoch)]).tolist()) for epoch in range(200)
    ]
    left_out = [sum(position not in epoch for epoch in seen) for position in range(53)]
    assert min(left_out) > 0  # 19 times expected


def test_crops_and_flips_of_an_image_are_all_that_is_done_to_it():
    split = _split()
    for batch in _loader(Augmentation(crop_padding=1, flip=True), split=split):
        for x, position in zip(batch.x.numpy(), batch.index.tolist(), strict=True):
            padded = np.pad(
                split.images[position].numpy() / np.float32(255), ((0, 0), (1,) * 2, (1,) * 2)
            )
            views = [
                padded[:, top : top + 8, left : left + 8]
                for top, left in itertools.product(range(3), repeat=2)
            ]
            candidates = [*views, *(view[:, :, ::-1] for view in views)]
            assert sum(np.array_equal(x, candidate) for candidate in candidates) == 1


def test_partners_are_the_augmented_images_of_the_same_global_batch():
    """With the first image's share of every pixel known, the partner can be solved for."""
    split = ImageSplit(_split(16).images, torch.arange(16))  # every image is its own class
    pure = _loader(Augmentation(2, True), split=split, num_classes=16)
    mixed = _loader(Augmentation(2, True, "mixup"), split=split, num_classes=16)
    (plain,), (batch,) = pure, mixed
    assert torch.equal(plain.index, batch.index)
    row_of = {int(label): row for row, label in enumerate(plain.y)}
    for row in range(16):
        own = batch.targets[row, batch.y[row]]
        others = batch.targets[row].nonzero().flatten().tolist()
        others.remove(int(batch.y[row]))
        if not others:  # its own partner
            assert torch.allclose(batch.x[row], plain.x[row])
            continue
        partner = plain.x[row_of[others[0]]]
        torch.testing.assert_close(batch.x[row], own * plain.x[row] + (1 - own) * partner)


def test_each_row_is_the_partner_of_one_row():
    split = ImageSplit(_split(16).images, torch.arange(16))
    (batch,) = _loader(Augmentation(mixing="vh_mixup"), split=split, num_classes=16)
    partners = batch.targets.clone()
    partners[torch.arange(16), batch.y] = 0
    assert (partners > 0).sum(0).max() <= 1
    assert (partners > 0).sum() >= 12  # a permutation of 16 has one fixed point on average


def test_state_continues_in_the_same_epoch_and_is_forgotten_in_another():
    augmentation = AUGMENTATIONS["vh_mixup"]
    undisturbed = list(_loader(augmentation, epoch=1))
    interrupted = _loader(augmentation, epoch=1)
    batches = iter(interrupted)
    next(batches)
    state = interrupted.state_dict()

    resumed = _loader(augmentation)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    _assert_same(resumed, undisturbed[1:])
    resumed.set_epoch(2)
    _assert_same(resumed, _loader(augmentation, epoch=2))

    late = _loader(augmentation)
    late.load_state_dict(state)
    late.set_epoch(2)
    _assert_same(late, _loader(augmentation, epoch=2))


def test_the_epoch_is_the_one_set_before_the_first_batch():
    """Lightning makes the iterator first, and sets the epoch afterwards."""
    loader = _loader()
    batches = iter(loader)
    loader.set_epoch(5)
    _assert_same(batches, _loader(epoch=5))


def test_batch_sizes_that_cannot_be_served_are_said_in_one_line():
    with pytest.raises(UserError, match=r"data.batch_size=16 .* a multiple of the 3 processes"):
        _loader(rank=0, world_size=3)
    with pytest.raises(UserError, match=r"data.batch_size=54 exceeds the 53 training images"):
        _loader(batch_size=54)
