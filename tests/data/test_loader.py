import pytest
import torch
from torch.nn import functional as F

from lrm_lightning.data import EvalLoader, ImageSplit
from lrm_lightning.data.randomness import Draws
from lrm_lightning.errors import UserError


def _split(count):
    gen = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 4, 4), generator=gen, dtype=torch.uint8)
    return ImageSplit(images, torch.randint(3, (count,), generator=gen))


def _loaders(split, batch_size, world_size):
    return [
        EvalLoader(
            split, num_classes=3, batch_size=batch_size, rank=rank, world_size=world_size, seed=7
        )
        for rank in range(world_size)
    ]


SHAPES = [
    (103, 10, 1),
    (103, 10, 2),
    (103, 10, 3),
    (103, 10, 4),
    (103, 50, 4),  # 3 images left over for 4 ranks
    (5, 500, 4),
    (4, 4, 4),
    (8, 4, 3),
    (9, 4, 4),  # 1 left over
]


@pytest.mark.parametrize(("count", "batch_size", "world_size"), SHAPES)
def test_every_image_comes_once_over_all_ranks_and_no_rank_is_ever_empty(
    count, batch_size, world_size
):
    split = _split(count)
    ranks = [list(loader) for loader in _loaders(split, batch_size, world_size)]
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
def test_images_come_as_they_are(world_size):
    split = _split(20)
    for loader in _loaders(split, 8, world_size):
        assert len(loader) == len(list(loader)) == 3
        for batch in loader:
            assert batch.x.dtype == torch.float32
            assert torch.equal(batch.x, split.images[batch.index] / 255)
            assert torch.equal(batch.y, split.labels[batch.index])
            assert torch.equal(batch.targets, F.one_hot(batch.y, 3).float())


def test_draws_name_the_batch_and_the_ranks_rows():
    first, second = (list(loader) for loader in _loaders(_split(21), 8, 2))
    assert first[2].draws == Draws(seed=7, epoch=0, step=2, size=5, start=0, stop=2)
    assert second[2].draws == Draws(seed=7, epoch=0, step=2, size=5, start=2, stop=5)


def test_fewer_images_than_ranks_is_said_in_one_line():
    with pytest.raises(UserError, match=r"^3 images in batches of 500 .* 4 processes: use fewer"):
        _loaders(_split(3), 500, 4)
    with pytest.raises(UserError, match=r"a larger data\.eval_batch_size"):
        _loaders(_split(100), 2, 4)


def test_state_continues_inside_an_epoch_and_only_once():
    loader = EvalLoader(_split(20), num_classes=3, batch_size=5)
    batches = iter(loader)
    next(batches)
    next(batches)
    state = loader.state_dict()

    resumed = EvalLoader(_split(20), num_classes=3, batch_size=5)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    iter(resumed)  # Lightning makes iterators only to see that it can
    assert [batch.draws.step for batch in resumed] == [2, 3]
    assert [batch.draws.step for batch in resumed] == [0, 1, 2, 3]


def test_state_of_another_number_of_batches_is_refused():
    state = EvalLoader(_split(20), num_classes=3, batch_size=5).state_dict()
    other = EvalLoader(_split(20), num_classes=3, batch_size=10)
    with pytest.raises(UserError, match="made with 4 batches an epoch, but there are 2 now"):
        other.load_state_dict(state)
