"""The network that everyone attacks or trains, and the images."""

from typing import Any, NamedTuple

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.settings import Settings
from lrm_lightning.attacks import pgd
from lrm_lightning.data import Batch, DigitsDataModule
from lrm_lightning.runs.identity import conf_dir


class Subject(NamedTuple):
    """One network, one batch.

    Attributes:
        network: Trained a little, in eval mode and channels-last.
        x: Test images, shape ``(n, 3, 32, 32)``, channels-last.
        y: Their labels.
        batches: A training batch by how it was mixed: ``"none"`` and ``"vh_mixup"``.
        entrants: Who competes, ours excluded.
    """

    network: nn.Module
    x: Tensor
    y: Tensor
    batches: dict[str, Batch]
    entrants: list[str]


def model_arguments(settings: Settings) -> dict[str, Any]:
    """The chosen file of ``conf/model``."""
    file = conf_dir() / "model" / f"{settings.model}.yaml"
    return {str(key): value for key, value in OmegaConf.load(file).items()}


def build_network(settings: Settings, *, width: int = 1) -> nn.Module:
    """The chosen network with fresh weights, its layers ``width`` times as wide.

    Raises:
        KeyError: If it has no ``widths`` and ``width`` is not 1.
    """
    arguments = model_arguments(settings)
    if width != 1:
        arguments["widths"] = [width * each for each in arguments["widths"]]
    network = get_object(arguments.pop("_target_"))(**arguments, num_classes=10)
    return network.to(settings.device, memory_format=torch.channels_last).eval()


def prepare(settings: Settings) -> Subject:
    """Train for a moment on the embedded digits, without a download.

    On FGSM from a random start, so that attacks break some images and not all: there has to be
    something to agree on.
    """
    torch.manual_seed(0)
    network = build_network(settings)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.pretraining_lr)
    network.train()
    for batch in _batches(32, settings.pretraining):
        x, y = _laid_out(batch.x, settings), batch.y.to(settings.device)
        eps = settings.attack.eps
        x_adv = pgd(network, x, y, eps=eps, step_size=eps, steps=1)
        optimizer.zero_grad()
        F.cross_entropy(network(x_adv), y).backward()
        optimizer.step()
    network.zero_grad()
    datamodule = DigitsDataModule(eval_batch_size=settings.images)
    datamodule.setup()
    test = next(iter(datamodule.test_dataloader()))
    return Subject(
        network.eval(),
        _laid_out(test.x, settings),
        test.y.to(settings.device),
        {mixing: _training_batch(mixing, settings) for mixing in ("none", "vh_mixup")},
        [],
    )


def _batches(size: int, steps: int) -> list[Batch]:
    datamodule = DigitsDataModule(batch_size=size)
    datamodule.setup()
    loader, found = datamodule.train_dataloader(), []
    while len(found) < steps:
        found += list(loader)
    return found[:steps]


def _training_batch(mixing: str, settings: Settings) -> Batch:
    datamodule = DigitsDataModule(batch_size=settings.batch, mixing=mixing)
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    return batch._replace(
        x=_laid_out(batch.x, settings),
        targets=batch.targets.to(settings.device),
        y=batch.y.to(settings.device),
        index=batch.index.to(settings.device),
    )


def _laid_out(x: Tensor, settings: Settings) -> Tensor:
    return x.to(settings.device, memory_format=torch.channels_last)
