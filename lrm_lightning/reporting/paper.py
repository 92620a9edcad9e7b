"""The paper's numbers, as printed there, to stand beside ours."""

from collections.abc import Mapping
from typing import Any, NamedTuple

TITLE = "Summers & Dinneen, “Logit Regularization Methods for Adversarial Robustness”"
URL = "https://openreview.net/forum?id=BJlr0j0ctX"
# The only data the paper has numbers for, by the name that our records give it.
DATA = "cifar10"
ATTACKS: tuple[str, ...] = ("clean", "fgsm", "pgd5", "pgd10", "pgd20")


class Method(NamedTuple):
    """One row of Table 1: a defence, and the settings without which it would be another one."""

    name: str  # the method's in conf/method
    title: str  # the row's in the paper
    epochs: int  # length of its training, section 5.1
    knobs: Mapping[str, Any]  # what a run must have set in conf/method/<name>.yaml to be this row
    white_box: Mapping[str, float]  # accuracy in % by attack (Table 1)
    black_box: Mapping[str, float]  # accuracy in % as the target of Table 2, by the source's name


_SOURCES: tuple[str, ...] = ("regular", "label_smoothing", "pgd", "alp", "lrm")
_PLAIN: dict[str, Any] = {"smoothing": 0.0, "squeeze_weight": 0.0, "mixing": "none"}


def _method(  # one line of each table below reads like the paper's
    name: str, title: str, epochs: int, knobs: dict[str, Any], *tables: tuple[float, ...]
) -> Method:
    white_box, black_box = tables
    white = dict(zip(ATTACKS, white_box, strict=True))
    if name == "label_smoothing":
        white["pgd200"] = 13.6  # section 5.3
    black = dict(zip(_SOURCES, black_box, strict=True))
    return Method(name, title, epochs, _PLAIN | knobs, white, black)


METHODS: Mapping[str, Method] = {
    each.name: each
    for each in (
        _method(
            "regular", "Regular", 200, {},
            (87.4, 6.1, 0.0, 0.0, 0.0),
            (26.8, 32.0, 75.1, 73.9, 67.3),
        ),
        _method(
            "label_smoothing", "Label smoothing", 200, {"smoothing": 0.75},
            (86.9, 54.7, 49.4, 41.7, 34.4),
            (66.7, 67.3, 75.6, 74.2, 67.6),
        ),
        _method(
            "pgd", "PGD", 101, {"alpha": 0.0},
            (75.8, 50.5, 51.0, 46.1, 45.3),
            (69.8, 69.1, 58.0, 57.9, 55.7),
        ),
        _method(
            "alp", "ALP", 101, {"alpha": 0.0, "pairing_distance": "l2"},
            (74.0, 52.6, 53.6, 49.1, 48.5),
            (69.4, 68.8, 60.8, 59.3, 56.4),
        ),
        _method(
            "lrm", "LRM", 101,
            {
                "alpha": 0.0, "smoothing": 0.1, "squeeze_weight": 1e-3, "mixing": "vh_mixup",
                "pairing_to_adversarial_ratio": 0.125, "pairing_kind": "cross_entropy",
            },
            (68.5, 52.8, 53.8, 51.4, 51.0),
            (71.5, 70.9, 60.5, 59.4, 54.3),
        ),
    )
}  # fmt: skip

# What the attack of an evaluation must share with the paper's to be the same attack.
THREAT_MODEL: Mapping[str, Any] = {"norm": "linf", "eps": 0.03, "step_size": 0.0078}
# Section 5.1, by the keys of our configuration.
RECIPE: Mapping[str, Any] = {
    "model._target_": "lrm_lightning.models.ResNet",
    "model.depth": 5,
    "model.widths": [16, 16, 32, 64],
    "data.batch_size": 128,
    "data.val_size": 0,
    "data.crop_padding": 4,
    "data.flip": True,
    "init_from": None,
    "checkpoint.select": "last",
    "optimizer._target_": "torch.optim.SGD",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 2e-4,
    "scheduler.name": "step_drops",
    "scheduler.warmup_epochs": 5,
    "scheduler.milestones": [100, 150],
    "scheduler.gamma": 0.1,
    "trainer.precision": "32-true",
    "trainer.accumulate_grad_batches": None,
    "trainer.gradient_clip_val": None,
    **{f"attack.{key}": value for key, value in THREAT_MODEL.items()},
    "attack.steps": 10,
    "attack.random_start": True,
    "attack.loss": "cross_entropy",
    "method.awp": 0.0,
    "method.input_noise": 0.0,
}

# FGSM accuracy in % by smoothing s of otherwise regular training (section 4 and Table 1).
FGSM_BY_SMOOTHING: Mapping[float, float] = {0.0: 6.1, 0.01: 38.3}
# Variance of all logits on clean test images (section 3, Fig. 1 left), and that section's loss.
LOGIT_VARIANCE: Mapping[str, float] = {"pgd": 8.31, "alp": 4.02}
LOSS_OF_SECTION_3: Mapping[str, float] = {"method.alpha": 0.5}
# Fig. 2 right.
SMOOTHING_OF_FIGURE_2 = 0.75
