"""The sizes of a measurement, the network that everyone attacks or trains, and the images."""

import copy
from dataclasses import asdict, dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.same_work import DifferentWorkError, check_ball, check_gain, check_verdicts
from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import Batch, DigitsDataModule
from lrm_lightning.runs.identity import conf_dir

ATTACK = PGDAttack()  # the paper's training attack: eps 0.03, ten steps of 0.0078
OURS, REFERENCE = "ours", "ours, reference engine"
ENGINES = {OURS: "fast", REFERENCE: "reference"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the measurements; the defaults take about fifteen minutes on two quiet cores."""

    rounds: int = 3  # interleaved, of which medians are taken
    images: int = 128  # of the table's row; the step curve takes a quarter of them
    batch: int = 128  # images that a network sees at a time
    device: str = "cpu"  # or "cuda"
    model: str = "resnet_simple"  # a file of conf/model
    out: Path = Path(".benchmarks/bench.json")
    threads: int = 1  # of torch
    pretraining: int = 60  # steps before measurements, so that accuracies mean something
    pretraining_lr: float = 3e-3  # Adam's rate in them
    curve_steps: int = 200  # length of the step curve

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the JSON."""
        return asdict(self) | {"out": str(self.out), "attack": ATTACK.as_dict()}


# Tiny sizes, to see whether it runs at all; a smaller network takes larger steps.
QUICK: dict[str, Any] = {
    "rounds": 1,
    "images": 32,
    "batch": 32,
    "model": "resnet_tiny",
    "pretraining_lr": 1e-2,
    "curve_steps": 20,
}


class Subject(NamedTuple):
    """One network, one batch."""

    network: nn.Module  # trained a little, in eval mode and channels-last
    x: Tensor  # test images, shape (n, 3, 32, 32), channels-last
    y: Tensor  # their labels
    batches: dict[str, Batch]  # a training batch by its mixing: "none" and "vh_mixup"
    peers: list[str]  # names of those who compete with us


def prepare(settings: Settings) -> Subject:
    """Train for a moment on the embedded digits, without a download.

    The network trains on FGSM from a random start, so that attacks break some images and not all:
    there has to be something to agree on.
    """
    torch.manual_seed(0)
    file = conf_dir() / f"model/{settings.model}.yaml"
    arguments = {str(key): value for key, value in OmegaConf.load(file).items()}
    network = get_object(arguments.pop("_target_"))(**arguments, num_classes=10)
    network = network.to(settings.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.pretraining_lr)
    attack = PGDAttack(step_size=ATTACK.eps, steps=1)
    datamodule = DigitsDataModule(batch_size=32, eval_batch_size=settings.images)
    datamodule.setup()
    epochs = repeat(datamodule.train_dataloader())
    for batch in islice(chain.from_iterable(epochs), settings.pretraining):
        x, y = batch.x.to(settings.device), batch.y.to(settings.device)
        x_adv = attack(network, x, y)
        optimizer.zero_grad()
        F.cross_entropy(network(x_adv), y).backward()
        optimizer.step()
    network.zero_grad()
    test = next(iter(datamodule.test_dataloader()))
    batches = {mixing: training_batch(mixing, settings) for mixing in ("none", "vh_mixup")}
    x, y = test.x.to(settings.device), test.y.to(settings.device)
    return Subject(network.eval(), x, y, batches, list(peers.installed()))


def admit(subject: Subject, settings: Settings) -> dict[str, str]:
    """Have everyone attack the same batch once, which also warms them up.

    Returns:
        By name why a peer did different work; empty if nobody did.

    Raises:
        DifferentWorkError: If our own fast engine differs from our reference.
    """
    network, x, y = subject.network, subject.x, subject.y
    clean = _logits(network, x)
    reference = _logits(network, PGDAttack(engine="reference")(network, x, y))

    def check(x_adv: Tensor) -> None:
        logits = _logits(network, x_adv)
        check_ball(x_adv, x, ATTACK.eps)
        check_verdicts(logits.argmax(dim=1) == y, reference.argmax(dim=1) == y)
        losses = [F.cross_entropy(each, y, reduction="none") for each in (logits, reference, clean)]
        check_gain(*losses)

    check(PGDAttack(engine="fast")(network, x, y))
    refused = {}
    for name in subject.peers:
        peer = peers.PEERS[name]
        own = copy_for(name, network)
        try:
            check(peer.attack(own, x.contiguous(memory_format=peer.layout), y, peers.Sizes()))
        except DifferentWorkError as difference:
            refused[name] = str(difference)
    return refused


def copy_for(name: str, network: nn.Module) -> nn.Module:
    """A copy of ``network`` in a peer's layout, whose gradients and modes it may change."""
    layout = peers.PEERS[name].layout
    return copy.deepcopy(network).to(memory_format=layout)  # type: ignore[call-overload]


def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images are classified correctly, bool ``(B,)``: an accuracy pass."""
    return _logits(network, x).argmax(dim=1) == y


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)


def training_batch(mixing: str, settings: Settings) -> Batch:
    """A batch of the embedded digits on the device of the measurement."""
    datamodule = DigitsDataModule(batch_size=settings.batch)
    datamodule.augmentation = datamodule.augmentation._replace(mixing=mixing)
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    tensors = ("x", "targets", "y", "index")
    return batch._replace(**{name: getattr(batch, name).to(settings.device) for name in tensors})
