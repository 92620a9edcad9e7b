"""Who competes with our attacks, each with a network of its own that has the same weights."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.peers import Attack
from benchmarks.same_work import DifferentWorkError, check_ball, check_gain, check_verdicts
from benchmarks.settings import Settings
from lrm_lightning.attacks import pgd
from lrm_lightning.models.view import attack_view

OURS, REFERENCE = "ours", "ours, reference engine"
ENGINES = {OURS: "fast", REFERENCE: "reference"}
PLAIN, DEFAULT_LAYOUT = "plain loop", "plain loop, default layout"


class Entrant(NamedTuple):
    """An attack and what it attacks.

    Attributes:
        attack: Attacks ``network``.
        network: In eval mode; shares nothing with anyone, so gradients and modes may change.
        layout: Memory format of its weights, and of the images it is given.
    """

    attack: Attack
    network: nn.Module
    layout: torch.memory_format

    def predicts(self, x: Tensor, y: Tensor) -> Tensor:
        """Which images are classified correctly, bool ``(B,)``: an accuracy pass."""
        with torch.no_grad():
            return self.network(x).argmax(dim=1) == y


def names() -> list[str]:
    """Everyone but us who can take part."""
    return [*peers.installed(), PLAIN, DEFAULT_LAYOUT]


def missing() -> list[str]:
    """Peers that are not installed."""
    return [name for name in peers.PEERS if name not in peers.installed()]


def entrant(name: str, network: nn.Module) -> Entrant:
    """The entrant of that name, with a copy of ``network`` in its layout."""
    # What papers ship knows nothing of memory formats; everyone else gets the faster one.
    layout = torch.contiguous_format if name == DEFAULT_LAYOUT else torch.channels_last
    own = copy.deepcopy(network).to(memory_format=layout)  # type: ignore[call-overload]
    factory = peers.installed().get(name, peers.plain_loop)
    return Entrant(factory(own), own, layout)


def admit(network: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> dict[str, str]:
    """Have everyone attack the same batch once, which also warms them up.

    Returns:
        By name why an entrant did different work; empty if nobody did.

    Raises:
        DifferentWorkError: If our own fast engine differs from our reference.
    """
    attack = settings.attack
    sizes = {"eps": attack.eps, "step_size": attack.step_size, "steps": attack.steps}
    clean = _logits(network, x)
    reference = _logits(network, pgd(network, x, y, **sizes))

    def check(x_adv: Tensor) -> None:
        logits = _logits(network, x_adv)
        check_ball(x_adv, x, attack.eps)
        check_verdicts(logits.argmax(dim=1) == y, reference.argmax(dim=1) == y)
        losses = [F.cross_entropy(each, y, reduction="none") for each in (logits, reference, clean)]
        check_gain(*losses)

    check(pgd(attack_view(network, "fast"), x, y, **sizes))
    refused = {}
    for name in names():
        competitor = entrant(name, network)
        try:
            check(competitor.attack(x.contiguous(memory_format=competitor.layout), y, **sizes))
        except DifferentWorkError as difference:
            refused[name] = str(difference)
    return refused


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)
