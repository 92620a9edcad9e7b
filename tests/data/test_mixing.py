import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lrm_lightning.data.mixing import draw_mixup, draw_vh_mixup, mixup, vh_mixup

CLASSES = 4


def _pairs(count, height, width, seed):
    gen = torch.Generator().manual_seed(seed)
    x1, x2 = torch.rand(2, count, 3, height, width, generator=gen)
    labels1, labels2 = torch.randint(CLASSES, (2, count), generator=gen)
    return x1, F.one_hot(labels1, CLASSES).float(), x2, F.one_hot(labels2, CLASSES).float()


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def _vh_draw(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rows, cols = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return height, width, rows, cols, draw(st.floats(0, 1, width=32))


@given(_vh_draw())
@settings(deadline=None)
def test_vh_mixup_label_share_is_the_mean_of_the_first_images_share(drawn):
    height, width, rows, cols, weight = drawn
    ones, zeros = torch.ones(1, 3, height, width), torch.zeros(1, 3, height, width)
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    shares = {"rows": rows, "cols": cols, "weight": weight}
    shares = {name: torch.tensor([value]) for name, value in shares.items()}
    x, targets = vh_mixup(ones, first, zeros, second, **shares)
    torch.testing.assert_close(targets[0, 0], x.mean(), atol=1e-6, rtol=0)


def _vh_mixup_of_one_pair(x1, y1, x2, y2, h, w, m):
    """The definition, pixel by pixel."""
    _, height, width = x1.shape
    x = torch.empty_like(x1)
    for i in range(height):
        for j in range(width):
            vertical = x1[:, i, j] if i < h else x2[:, i, j]
            horizontal = x1[:, i, j] if j < w else x2[:, i, j]
            x[:, i, j] = m * vertical + (1 - m) * horizontal
    c = m * h / height + (1 - m) * w / width
    return x, c * y1 + (1 - c) * y2


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_vh_mixup_equals_its_definition_pixel_by_pixel(seed):
    count, height, width = 5, 6, 7
    pairs = _pairs(count, height, width, seed)
    rows, cols, weight = draw_vh_mixup(
        count, height=height, width=width, generator=_generator(seed)
    )
    x, targets = vh_mixup(*pairs, rows=rows, cols=cols, weight=weight)
    for k, (x1, y1, x2, y2) in enumerate(zip(*pairs, strict=True)):
        drawn = (rows[k].item(), cols[k].item(), weight[k].item())
        wanted_x, wanted_targets = _vh_mixup_of_one_pair(x1, y1, x2, y2, *drawn)
        torch.testing.assert_close(x[k], wanted_x)
        torch.testing.assert_close(targets[k], wanted_targets)


def test_vh_mixup_with_no_rows_and_no_columns_is_the_second_image():
    x1, targets1, x2, targets2 = _pairs(3, 4, 4, seed=0)
    none = torch.zeros(3, dtype=torch.int64)
    x, targets = vh_mixup(x1, targets1, x2, targets2, rows=none, cols=none, weight=torch.rand(3))
    assert torch.equal(x, x2)
    assert torch.equal(targets, targets2)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_mixed_pixels_lie_between_the_two_images_and_labels_keep_their_mass(seed):
    x1, targets1, x2, targets2 = pairs = _pairs(8, 5, 5, seed)
    weight = draw_mixup(8, alpha=0.3, generator=_generator(seed))
    drawn = draw_vh_mixup(8, height=5, width=5, generator=_generator(seed))
    named = dict(zip(("rows", "cols", "weight"), drawn, strict=True))
    for x, targets in (mixup(*pairs, weight=weight), vh_mixup(*pairs, **named)):
        # exactly: attacks refuse pixels outside [0, 1]
        assert (x >= torch.minimum(x1, x2)).all()
        assert (x <= torch.maximum(x1, x2)).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        assert (targets >= 0).all()
        assert (targets[(targets1 + targets2) == 0] == 0).all()


def test_mixup_by_hand():
    x1, x2 = torch.full((2, 1, 1, 1), 1.0), torch.zeros(2, 1, 1, 1)
    first, second = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[0.0, 1.0]] * 2)
    x, targets = mixup(x1, first, x2, second, weight=torch.tensor([0.25, 1.0]))
    assert x.flatten().tolist() == [0.25, 1.0]
    assert targets.tolist() == [[0.25, 0.75], [1.0, 0.0]]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_weights_have_the_moments_of_a_beta(alpha):
    weights = draw_mixup(20_000, alpha=alpha, generator=_generator())
    assert weights.dtype == torch.float32
    assert weights.min() >= 0
    assert weights.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(weights.mean() - 0.5) < 3.3 * (variance / 20_000) ** 0.5
    torch.testing.assert_close(weights.var(), torch.tensor(variance), rtol=0.05, atol=0)


def test_vh_mixup_draws_are_uniform_and_stay_below_the_sides():
    rows, cols, weight = draw_vh_mixup(8000, height=8, width=4, generator=_generator())
    for drawn, side, quantile in ((rows, 8, 24.3), (cols, 4, 16.3)):  # chi-square, 99.9 %
        counts = torch.bincount(drawn, minlength=side)
        assert len(counts) == side
        assert ((counts - 8000 / side) ** 2 / (8000 / side)).sum() < quantile
    tenths = torch.histc(weight, bins=10, min=0, max=1)
    assert ((tenths - 800) ** 2 / 800).sum() < 27.9


def test_weights_repeat_with_their_generator_and_differ_between_pairs():
    weights = [draw_mixup(9, alpha=1, generator=_generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert len(weights[0].unique()) == 9
