import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrm_lightning.data.batch import hold_out


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0, 1), st.integers(0, 2**32 - 1)
)
@settings(max_examples=60, deadline=None)
def test_parts_are_disjoint_complete_and_in_proportion(classes, share, seed):
    labels = torch.tensor(classes)
    size = int(share * len(labels))
    kept, held_out = hold_out(labels, size, generator=_generator(seed))
    assert len(held_out) == size
    assert torch.cat([kept, held_out]).sort().values.tolist() == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    for label in set(classes):
        exact = classes.count(label) * size / len(classes)
        assert abs((labels[held_out] == label).sum() - exact) < 1


def test_held_out_order_is_random_so_its_beginning_is_a_fair_sample():
    labels = torch.arange(10).repeat_interleave(500)  # sorted by class
    _, held_out = hold_out(labels, 1000, generator=_generator())
    first = labels[held_out[:200]]
    assert torch.bincount(first, minlength=10).min() >= 8  # 20 expected, 2.7 standard deviations
    assert held_out.diff().lt(0).float().mean() > 0.4


def test_choice_depends_on_the_generator_alone():
    labels = torch.arange(10).repeat(30)
    once = hold_out(labels, 60, generator=_generator(1))[1]
    again = hold_out(labels, 60, generator=_generator(1))[1]
    other = hold_out(labels, 60, generator=_generator(2))[1]
    assert torch.equal(once, again)
    assert not torch.equal(once.sort().values, other.sort().values)
