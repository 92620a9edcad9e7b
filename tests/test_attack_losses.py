import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack

from lrm_lightning.losses import OBJECTIVES, cross_entropy, dlr, hard_labels, margin

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
Y = torch.tensor([0, 2])


def one_hot(y, classes):
    return torch.eye(classes)[y]


def test_cross_entropy_golden():
    logits = LOGITS.double().numpy()
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = torch.tensor([-log_softmax[0, 0], -log_softmax[1, 2]]).float()
    torch.testing.assert_close(cross_entropy(LOGITS, Y), expected)


def test_cross_entropy_of_a_mix_is_the_mix_of_cross_entropies():
    soft = 0.3 * one_hot(Y, 3) + 0.7 * one_hot(torch.tensor([1, 1]), 3)
    expected = 0.3 * cross_entropy(LOGITS, Y) + 0.7 * cross_entropy(LOGITS, torch.tensor([1, 1]))
    torch.testing.assert_close(cross_entropy(LOGITS, soft), expected)


def test_margin_golden():
    # 0.5 - 2 and 3 - 1.
    torch.testing.assert_close(margin(LOGITS, Y), torch.tensor([-1.5, 2.0]))


def test_gradients_golden():
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(margin(logits, Y).sum(), logits)  # best wrong minus label
    assert torch.equal(gradient, torch.tensor([[-1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]))
    (gradient,) = torch.autograd.grad(cross_entropy(logits, Y).sum(), logits)
    torch.testing.assert_close(gradient, LOGITS.softmax(dim=1) - one_hot(Y, 3))


def test_margin_is_positive_exactly_where_misclassified():
    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    y = torch.randint(7, (500,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(margin(logits, y) > 0, logits.argmax(dim=1) != y)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_one_hot_labels_equal_hard_labels(loss):
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    y = torch.randint(7, (50,), generator=torch.Generator().manual_seed(1))
    values = OBJECTIVES[loss](logits, y)
    assert values.shape == (50,)
    torch.testing.assert_close(OBJECTIVES[loss](logits, one_hot(y, 7)), values)


def test_dlr_and_its_gradient_are_those_of_autoattack():
    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.randint(7, (500,), generator=torch.Generator().manual_seed(1))
    official = APGDAttack.dlr_loss(None, logits, y)
    torch.testing.assert_close(dlr(logits, y), official)
    gradients = (torch.autograd.grad(each.sum(), logits) for each in (dlr(logits, y), official))
    torch.testing.assert_close(*gradients)


def test_dlr_has_no_scale():
    torch.testing.assert_close(dlr(LOGITS, Y), torch.tensor([-0.5, 2 / 3]))  # margin over z1 - z3
    torch.testing.assert_close(dlr(1000 * LOGITS + 5, Y), dlr(LOGITS, Y))


def test_dlr_needs_three_classes():
    with pytest.raises(ValueError, match="at least 3 classes, not 2"):
        dlr(LOGITS[:, :2], Y[:1])


def test_margin_of_a_mix_uses_the_most_probable_class():
    soft = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.0, 0.9]])
    assert torch.equal(hard_labels(soft), Y)
    assert torch.equal(margin(LOGITS, soft), margin(LOGITS, Y))
