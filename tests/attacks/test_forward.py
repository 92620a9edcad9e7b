"""Wrong settings and wrong tensors end in one line."""

import copy

import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack, fgsm
from lrm_lightning.attacks.forward import predict

X = torch.full((2, 3, 4, 4), 0.5)
Y = torch.tensor([0, 1])


def model(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))


class Returns(nn.Module):
    """Applies ``change`` to the logits of the ``number``-th pass and all later ones."""

    def __init__(self, change, number=1):
        super().__init__()
        self.inner = model()
        self.change = change
        self.number = number
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        logits = self.inner(x)
        return self.change(logits) if self.passes >= self.number else logits


class RootOfZero(torch.nn.Module):
    """Finite logits whose gradient is NaN: the root of a value that is 0 times the pixels."""

    def forward(self, x):
        pixels = x.flatten(1)
        return torch.stack([(pixels.sum(dim=1) * 0).sqrt() * 0, pixels.sum(dim=1)], dim=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eps": 0}, r"eps=0 must be a number > 0 and <= 1 \(radius of the ball"),
        ({"eps": float("nan")}, "eps=nan must be"),
        ({"eps": float("inf"), "norm": "l2"}, "eps=inf must be"),
        ({"eps": "8/255"}, "eps='8/255' must be"),  # fractions are for configurations
        ({"step_size": 0.0}, "step_size=0.0 must be a number > 0"),
        ({"steps": 0}, "steps=0 must be a whole number >= 1"),
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"random_start": "no"}, "random_start='no' must be true or false"),
        ({"restarts": 0}, "restarts=0 must be a whole number >= 1"),
        ({"restarts": 2, "random_start": False}, "restarts=2 needs random_start=True"),
        ({"targeted": 1}, "targeted=1 must be true or false"),
        ({"norm": "l1"}, "norm='l1' is unknown; choose one of: linf, l2"),
        ({"loss": "dlr", "targeted": True}, "loss=dlr has no target"),
        ({"loss": None}, "loss=None is unknown; choose one of: cross_entropy, margin, dlr"),
        ({"loss": ["dlr"]}, r"loss=\['dlr'\] is unknown; choose one of: cross_entropy, margin"),
        ({"loss": "hinge"}, "loss='hinge' is unknown; choose one of: cross_entropy, margin, dlr"),
        ({"bn_mode": "batch"}, "bn_mode='batch' is unknown"),
        ({"keep": "last"}, "keep='last' is unknown; choose one of: final, best"),
        ({"engine": "quick"}, "engine='quick' is unknown; choose one of: auto, reference, fast"),
    ],
)
def test_wrong_settings_show_before_anything_is_attacked(wrong, message):
    with pytest.raises(ValueError, match=message):
        PGDAttack(**wrong)


@pytest.mark.parametrize("steps", [[-1], [5, 2.5], [3, None]])
def test_wrong_steps_of_a_trajectory(steps):
    with pytest.raises(ValueError, match="must be a whole number >= 0"):
        PGDAttack().trajectory(model(), X, Y, steps)


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ((10, 4), ""),
        ((10, 3, 2), "2, 3 steps of 0.0078 are shorter than eps 0.03: the search cannot cross"),
    ],
)
def test_a_search_that_is_shorter_than_its_radius_is_said(counts, line):
    found = PGDAttack(eps=0.03, step_size=0.0078).falls_short(counts)
    assert found.startswith(line)
    assert bool(found) == bool(line)


def one_pixel(value):
    x = X.clone()
    x[1, 2, 3, 3] = value
    return x


def images_only():
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(12, 3))


TENSORS = [
    ({"y": [0, 1]}, r"y is a list; it must be a torch\.Tensor"),
    ({"x": X.numpy()}, r"x is a ndarray; it must be a torch\.Tensor"),
    ({"start": X.numpy()}, r"start is a ndarray; it must be a torch\.Tensor"),
    (
        {"x": X.permute(0, 2, 3, 1), "model": images_only()},
        r"\(2, 4, 4, 3\) must be \(B, C, H, W\)",
    ),
    ({"model": model().half()}, r"x is torch\.float32, but the model is in torch\.float16"),
    ({"model": nn.Sequential(nn.ReLU(inplace=True), model())}, "the model overwrites its input x"),
    ({"x": one_pixel(1.01)}, r"x must lie in \[0, 1\]"),
    ({"x": one_pixel(-1e-3)}, r"x must lie in \[0, 1\]"),
    ({"x": one_pixel(float("nan"))}, r"x must lie in \[0, 1\] and hold no NaN"),
    ({"x": X.to(torch.uint8)}, "float32 or float64"),
    ({"x": X.half()}, "float32 or float64"),
    ({"x": X[:0], "y": Y[:0]}, "must be a batch of images"),
    ({"y": Y[:1]}, r"y of shape \(1,\)"),
    ({"y": Y.float()}, r"integer labels \(2,\) or float distributions \(2, C\)"),
    ({"y": Y[:, None]}, "integer labels"),
    ({"y": torch.tensor([0, 3])}, "y must hold labels from 0 to 2"),
    ({"y": torch.tensor([-1, 0])}, "y must hold labels from 0 to 2"),
    ({"y": torch.eye(4)[Y]}, "does not fit logits of 3 classes"),
    ({"y": torch.tensor([[0.5, 0.4, 0.0], [1, 0, 0]])}, "rows of y must be >= 0 and sum to 1"),
    ({"y": torch.tensor([[1.5, -0.5, 0.0], [1, 0, 0]])}, "rows of y must be >= 0 and sum to 1"),
    ({"y": torch.full((2, 3), float("nan"))}, "rows of y must be >= 0 and sum to 1"),
    ({"start": X[:1]}, "start of shape"),
    ({"start": X[None, :, :1]}, "start of shape"),
    ({"start": one_pixel(float("nan"))}, "start must hold finite numbers"),
    ({"model": model(1), "y": Y * 0}, "does not fit logits of 1 classes"),
    ({"model": nn.Identity()}, r"the model must return logits of shape \(2, C\)"),
    ({"model": Returns(lambda logits: (logits,))}, "must return logits .* not tuple"),
    ({"model": Returns(torch.detach)}, "no gradient flows"),
    ({"model": Returns(lambda logits: logits / 0)}, "logits that are NaN or infinite"),
    ({"model": Returns(lambda logits: logits * torch.nan)}, "logits that are NaN or infinite"),
    ({"model": Returns(lambda logits: logits * torch.nan, 2)}, "NaN or infinite during the attack"),
    ({"model": RootOfZero()}, "gradients became NaN or infinite during the attack"),
]
PGD = PGDAttack(eps=0.1, step_size=0.05, steps=2)


def follow(model, x, y, start=None):
    return PGD.trajectory(model, x, y, [2], start=start)


@pytest.mark.parametrize("attack", [PGD, follow], ids=["call", "trajectory"])
@pytest.mark.parametrize(("wrong", "message"), TENSORS)
def test_wrong_tensors(attack, wrong, message):
    arguments = {"model": model(), "x": X, "y": Y, **wrong}
    arguments["model"] = copy.deepcopy(arguments["model"])  # it counts
    with pytest.raises(ValueError, match=message) as raised:
        attack(**arguments)
    assert "\n" not in str(raised.value)


def test_what_to_do_about_a_tuple_is_up_to_who_asks():
    network = Returns(lambda logits: (logits,))
    with pytest.raises(ValueError, match=r"\(2, C\), not a tuple$"):
        predict(network, X)
    with pytest.raises(ValueError, match=r"not a tuple; give output=0$"):
        predict(network, X, mend="; give output=0")


def test_a_gradient_that_is_nan_does_not_pass_for_robustness():
    with pytest.raises(ValueError, match="gradients became NaN"):
        fgsm(RootOfZero(), X, Y, eps=0.1)
