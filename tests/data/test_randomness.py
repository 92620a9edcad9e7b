"""Every draw is named and has no state."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrm_lightning.data.batch import Draws
from lrm_lightning.data.randomness import generator


def _first(*key):
    return torch.rand(4, generator=generator(*key)).tolist()


def test_the_same_key_draws_the_same_whatever_was_drawn_before():
    first = _first(0, "flip", 1, 2)
    torch.manual_seed(123)
    torch.rand(7)
    assert _first(0, "flip", 1, 2) == first


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    _first(0, "flip", 1, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_part_of_the_key_counts():
    keys = itertools.product((0, 1), ("flip", "crop"), (0, 1, 10), (0, 1, 10))
    drawn = [tuple(_first(*key)) for key in keys]
    assert len(set(drawn)) == len(drawn)


def test_keys_do_not_run_together():
    assert _first(1, 23) != _first(12, 3)
    assert _first("a", "b") != _first("ab")
    assert _first("1") != _first(1)


def test_stream_is_the_same_on_every_machine():
    # another hash or seed would silently change every result that was ever published
    assert torch.randint(10**6, (4,), generator=generator(0, "attack", 0, 0)).tolist() == [
        539687,
        631104,
        952991,
        966560,
    ]


def test_draws_name_seed_purpose_epoch_and_step():
    draws = Draws(seed=5, epoch=2, step=3, size=8, first_row=2, end_row=6)
    assert torch.rand(4, generator=draws.generator("attack")).tolist() == _first(5, "attack", 2, 3)


def test_streams_look_independent():
    columns = torch.stack([torch.rand(2000, generator=generator(0, "x", i)) for i in range(8)])
    correlations = torch.corrcoef(columns) - torch.eye(8)
    assert correlations.abs().max() < 0.1


@given(
    size=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    epoch=st.integers(0, 10**6),
)
def test_rows_of_all_ranks_put_together_are_the_whole(size, cuts, epoch):
    bounds = sorted({0, size, *(cut for cut in cuts if cut < size)})
    whole = Draws(3, epoch, 0, size, 0, size)
    drawn = torch.rand(size, 2, generator=whole.generator("x"))
    parts = []
    for start, stop in itertools.pairwise(bounds):
        rank = whole._replace(first_row=start, end_row=stop)
        parts.append(rank.rows(torch.rand(size, 2, generator=rank.generator("x"))))
    assert torch.equal(torch.cat(parts), drawn)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_generator_of_a_gpu():
    one, other = (generator(0, "x", device="cuda") for _ in range(2))
    drawn = torch.rand(4, generator=one, device="cuda")
    assert torch.equal(drawn, torch.rand(4, generator=other, device="cuda"))
