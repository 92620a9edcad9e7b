"""Line 1: a training step on PGD-10, from the batch to the new weights."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.entrants import ENGINES, OURS, entrant
from benchmarks.result import Result
from benchmarks.same_work import DifferentWorkError
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved
from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import Batch
from lrm_lightning.data.randomness import Draws
from lrm_lightning.methods.alp import AdversarialLogitPairing
from lrm_lightning.methods.lrm import LogitRegularization
from lrm_lightning.methods.pgd import PGDTraining

NO_ATTACK = "the step without its attack"
# Everyone may train with Lightning's precision="bf16-mixed": ours, and the fastest of the others.
MIXED, MIXED_PEER = "ours, bf16-mixed", "torchattacks"
METHODS: dict[str, type[PGDTraining]] = {
    "PGD": PGDTraining,
    "ALP": AdversarialLogitPairing,
    "LRM": LogitRegularization,
}


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """Everyone's attack in the same loop, with the same losses and optimiser."""
    return [_method(name, subject, settings) for name in METHODS]


def workload(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> object:
    """A step of PGD training on an attack of ``steps`` steps."""
    targets = F.one_hot(y, 10).float()
    batch = Batch(x, targets, y, torch.arange(len(x)), Draws(0, 0, 0, len(x), 0, len(x)))
    attack = PGDAttack(steps=steps)
    return _trained(PGDTraining(network, attack=attack, engine="fast"), batch)()


def passes(method: str, steps: int) -> dict[str, float]:
    """How often a step passes every image: in the attack, and in the loss."""
    with_clean = 1 if method == "PGD" else 2  # pairing needs the clean images' logits too
    return {
        "forward": steps + with_clean,
        "input": steps,
        "hidden": with_clean,
        "weights": with_clean,
    }


def _method(method: str, subject: Subject, settings: Settings) -> Result:
    # LRM mixes images and smooths labels. Peers take hard labels, so they attack the first label of
    # a mix: other images come out, for the same work.
    batch = subject.batches["vh_mixup" if method == "LRM" else "none"]
    contestants: dict[str, Callable[[], float]] = {}
    for name, engine in ENGINES.items():
        defense = _defense(method, copy.deepcopy(subject.network), settings.attack, engine)
        contestants[name] = _trained(defense, batch)
    contestants[NO_ATTACK] = _without_attack(
        method, copy.deepcopy(subject.network), batch, settings
    )
    for name in subject.entrants:
        contestants[name] = _trained(*_peer(name, method, subject.network, batch, settings))
    defense = _defense(method, copy.deepcopy(subject.network), settings.attack, ENGINES[OURS])
    contestants[MIXED] = _trained(defense, batch, mixed=True)
    if MIXED_PEER in subject.entrants:
        peer = _peer(MIXED_PEER, method, subject.network, batch, settings)
        contestants[f"{MIXED_PEER}, bf16-mixed"] = _trained(*peer, mixed=True)
    seconds, losses = interleaved(contestants, settings.rounds, settings.device)
    result = Result(f"training step, {method}-{settings.attack.steps}", seconds, len(batch.x))
    result.refuse(
        {name: "loss is not finite" for name in losses if not math.isfinite(losses[name])}
    )
    if OURS in result.refused:
        raise DifferentWorkError(f"{method}: our own loss is not finite")
    steps = settings.attack.steps
    result.details |= {
        "loss": losses,
        "passes": passes(method, steps),
        "attack_passes": {"forward": steps, "input": steps},
        "beside_attack": NO_ATTACK,
    }
    return result


def _defense(method: str, network: nn.Module, attack: PGDAttack, engine: str) -> PGDTraining:
    return METHODS[method](network, attack=attack, engine=engine)


def _without_attack(
    method: str, network: nn.Module, batch: Batch, settings: Settings
) -> Callable[[], float]:
    """What every row contains, and no attack can make faster."""
    defense = _defense(method, network, settings.attack, "reference")
    defense.attack_batch = lambda batch, targets: batch.x
    return _trained(defense, batch)


def _peer(
    name: str, method: str, network: nn.Module, batch: Batch, settings: Settings
) -> tuple[PGDTraining, Batch]:
    """The same step on images that somebody else's attack finds, as :func:`_trained` takes it."""
    attack = settings.attack
    competitor = entrant(name, network)
    defense = _defense(method, competitor.network, attack, "reference")
    own = competitor.network.to(memory_format=competitor.layout)  # type: ignore[call-overload]

    def attack_batch(batch: Batch, targets: Tensor) -> Tensor:
        own.eval()
        x_adv = competitor.attack(
            batch.x, batch.y, eps=attack.eps, step_size=attack.step_size, steps=attack.steps
        )
        own.train()
        return x_adv

    defense.attack_batch = attack_batch
    return defense, batch._replace(x=batch.x.contiguous(memory_format=competitor.layout))


def _trained(defense: PGDTraining, batch: Batch, *, mixed: bool = False) -> Callable[[], float]:
    """What a trainer does with a batch, without the trainer; ``mixed`` is ``"bf16-mixed"``."""
    defense.train()
    # A rate at which a dozen steps on one batch leave the network as good as they found it.
    optimizer = torch.optim.SGD(defense.network.parameters(), lr=1e-4, momentum=0.9)

    def step() -> float:
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=mixed):
            loss = torch.stack(list(defense.step_terms(batch).values())).sum()
        optimizer.zero_grad()  # here: some attacks leave gradients behind
        defense.backward(loss)
        optimizer.step()
        return float(loss.detach())

    return step
