"""Attack an exported network with foolbox and with AutoAttack, without any evaluation code of ours.

    python -m lrm_lightning.export run=runs/digits/alp-dde014db out=exported/alp
    python -m examples.attack_exported exported/alp 0.1

The digits need no download; a network of CIFAR-10 takes CIFAR-10's images. ``pip install foolbox``.
"""

import sys

import foolbox
from pyautoattack import AutoAttack
from torch import Tensor, nn

from lrm_lightning import load_model
from lrm_lightning.data import DigitsDataModule


def images(count: int) -> tuple[Tensor, Tensor]:
    """The first test images as pixels in [0, 1], and their labels."""
    datamodule = DigitsDataModule(eval_batch_size=count)
    datamodule.setup()
    batch = next(iter(datamodule.test_dataloader()))
    # The loader's are channels last; AutoAttack takes views that only the default layout has.
    return batch.x.contiguous(), batch.y


def with_foolbox(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """Accuracy under foolbox's L-inf PGD with 20 steps."""
    attack = foolbox.attacks.LinfPGD(steps=20, abs_stepsize=0.26 * eps)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    return 1 - float(attack(model, x, y, epsilons=eps)[2].float().mean())


def with_autoattack(
    network: nn.Module, x: Tensor, y: Tensor, eps: float, queries: int = 5000
) -> float:
    """Accuracy under AutoAttack standard."""
    official = AutoAttack(network, norm="Linf", eps=eps, seed=0, version="standard")
    official.square.n_queries = queries
    return float((official.run_standard_evaluation(x, y, batch_size=100)[1] == y).float().mean())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m examples.attack_exported FOLDER EPS")
    exported, (pixels, labels), radius = load_model(sys.argv[1]), images(100), float(sys.argv[2])
    for attacked in (with_foolbox, with_autoattack):
        accuracy = attacked(exported, pixels, labels, radius)
        print(f"{attacked.__doc__} {100 * accuracy:.1f}% of {len(labels)} images")  # noqa: T201
