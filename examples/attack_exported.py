"""Attack an exported network with foolbox and with AutoAttack, without any evaluation code of ours.

    python -m lrm_lightning.export run=runs/digits/alp-dde014db out=exported/alp
    python -m examples.attack_exported exported/alp 0.1

The digits are used here, because they need no download; a network of CIFAR-10 takes CIFAR-10's
images. foolbox is not a dependency: ``pip install foolbox``.
"""

import sys

import foolbox
import torch
from pyautoattack import AutoAttack
from torch import nn

from lrm_lightning import load_model
from lrm_lightning.data import DigitsDataModule


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test images as pixels in [0, 1], and their labels."""
    datamodule = DigitsDataModule(eval_batch_size=count)
    datamodule.setup()
    batch = next(iter(datamodule.test_dataloader()))
    return batch.x, batch.y


def with_foolbox(network: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> float:
    """Accuracy under foolbox's L-inf PGD with 20 steps."""
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=20, abs_stepsize=0.26 * eps)
    _, _, success = attack(model, x, y, epsilons=eps)
    return 1 - float(success.float().mean())


def with_autoattack(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, queries: int = 5000
) -> float:
    """Accuracy under AutoAttack standard."""
    official = AutoAttack(network, norm="Linf", eps=eps, seed=0, version="standard")
    official.square.n_queries = queries
    _, y_adv = official.run_standard_evaluation(x, y, batch_size=100)
    return float((y_adv == y).float().mean())


if __name__ == "__main__":
    exported, radius = load_model(sys.argv[1]), float(sys.argv[2])
    pixels, labels = images(100)
    for name, accuracy in (
        ("PGD-20 of foolbox", with_foolbox(exported, pixels, labels, radius)),
        ("AutoAttack", with_autoattack(exported, pixels, labels, radius)),
    ):
        print(f"{name}: {100 * accuracy:.1f}% of {len(labels)} images")  # noqa: T201
