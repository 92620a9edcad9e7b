"""A training step on PGD-10, from the batch to the new weights."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.peers import PEERS, Sizes
from benchmarks.same_work import DifferentWorkError
from benchmarks.subject import ATTACK, ENGINES, OURS, Settings, Subject, copy_for
from benchmarks.timing import Result, interleaved
from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import Batch
from lrm_lightning.methods import AdversarialLogitPairing, LogitRegularization, PGDTraining

NO_ATTACK = "the step without its attack"
# Everyone may train with Lightning's precision="bf16-mixed": ours, and the fastest of the others.
MIXED, MIXED_PEER = "ours, bf16-mixed", "torchattacks"
METHODS: dict[str, type[PGDTraining]] = {
    "PGD": PGDTraining,
    "ALP": AdversarialLogitPairing,
    "LRM": LogitRegularization,
}


def training_step(subject: Subject, settings: Settings) -> list[Result]:
    """Everyone's attack in the same loop, with the same losses and optimiser."""
    return [_method(name, subject, settings) for name in METHODS]


def _method(method: str, subject: Subject, settings: Settings) -> Result:
    # LRM mixes images and smooths labels. Peers take hard labels, so they attack the first label of
    # a mix: other images come out, for the same work.
    batch = subject.batches["vh_mixup" if method == "LRM" else "none"]

    def ours(engine: str, *, mixed: bool = False) -> Callable[[], float]:
        attack = PGDAttack(engine=engine)
        return training_pass(
            METHODS[method](copy.deepcopy(subject.network), attack=attack), batch, mixed
        )

    def theirs(name: str, *, mixed: bool = False) -> Callable[[], float]:
        layout = PEERS[name].layout
        defense = METHODS[method](copy_for(name, subject.network))
        own: nn.Module = defense.network.to(memory_format=layout)  # type: ignore[call-overload]

        def attack_batch(batch: Batch, targets: Tensor) -> Tensor:
            own.eval()
            x_adv = PEERS[name].attack(own, batch.x, batch.y, Sizes())
            own.train()
            return x_adv

        defense.attack_batch = attack_batch
        return training_pass(
            defense, batch._replace(x=batch.x.contiguous(memory_format=layout)), mixed
        )

    without = METHODS[method](copy.deepcopy(subject.network))
    without.attack_batch = lambda batch, targets: batch.x
    contestants = {name: ours(engine) for name, engine in ENGINES.items()}
    contestants[NO_ATTACK] = training_pass(without, batch)
    contestants |= {name: theirs(name) for name in subject.peers}
    contestants[MIXED] = ours(ENGINES[OURS], mixed=True)
    if MIXED_PEER in subject.peers:
        contestants[f"{MIXED_PEER}, bf16-mixed"] = theirs(MIXED_PEER, mixed=True)
    seconds, losses = interleaved(contestants, settings.rounds, settings.device)
    result = Result(f"training step, {method}-{ATTACK.steps}", seconds, len(batch.x))
    infinite = {name for name, loss in losses.items() if not math.isfinite(loss)}
    if OURS in infinite:
        raise DifferentWorkError(f"{method}: our own loss is not finite")
    result.refuse(dict.fromkeys(infinite, "its loss is not finite"))
    result.details = {"loss": losses}
    return result


def training_pass(defense: PGDTraining, batch: Batch, mixed: bool = False) -> Callable[[], float]:
    """What a trainer does with a batch, without the trainer; ``mixed`` is ``"bf16-mixed"``."""
    defense.train()
    # A rate at which a dozen steps on one batch leave the network as good as they found it.
    optimizer = torch.optim.SGD(defense.network.parameters(), lr=1e-4, momentum=0.9)

    def step() -> float:
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=mixed):
            loss = torch.stack(list(defense.loss_terms(batch).values())).sum()
        optimizer.zero_grad()  # here: some attacks leave gradients behind
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
