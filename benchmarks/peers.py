"""Other implementations of L-inf PGD behind one signature, each used as its documentation says.

Networks come as they are after training, with parameters that require gradients: who computes those
gradients during an attack pays for them.
"""

from collections.abc import Callable
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Sizes(NamedTuple):
    """How an attack searches; one step of length ``eps`` without a random start is FGSM."""

    eps: float = 0.03
    step_size: float = 0.0078
    steps: int = 10
    random_start: bool = True


def plain_loop(network: nn.Module, x: Tensor, y: Tensor, sizes: Sizes) -> Tensor:
    """The loop that papers ship."""
    eps, x_adv = sizes.eps, x.clone()
    if sizes.random_start:
        x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(sizes.steps):
        x_adv.requires_grad_()
        F.cross_entropy(network(x_adv), y).backward()
        assert x_adv.grad is not None
        moved = x_adv.detach() + sizes.step_size * x_adv.grad.sign()
        x_adv = torch.clamp(x + (moved - x).clamp(-eps, eps), 0, 1)
    return x_adv.detach()


def foolbox(network: nn.Module, x: Tensor, y: Tensor, sizes: Sizes) -> Tensor:
    """Foolbox: Rauber et al. 2017, arXiv:1707.04131."""
    from foolbox.attacks import LinfPGD
    from foolbox.criteria import Misclassification

    eps, step_size, steps, random_start = sizes
    attack = LinfPGD(abs_stepsize=step_size, steps=steps, random_start=random_start)
    return attack.run(_foolbox_model(network), x, Misclassification(y), epsilon=eps)


def torchattacks(network: nn.Module, x: Tensor, y: Tensor, sizes: Sizes) -> Tensor:
    """Torchattacks: Kim 2020, arXiv:2010.01950."""
    from torchattacks import PGD  # pyright: ignore[reportMissingImports]

    eps, step_size, steps, random_start = sizes
    return PGD(network, eps=eps, alpha=step_size, steps=steps, random_start=random_start)(x, y)


def cleverhans(network: nn.Module, x: Tensor, y: Tensor, sizes: Sizes) -> Tensor:
    """CleverHans: Papernot et al. 2018, arXiv:1610.00768."""
    from cleverhans.torch.attacks import (  # pyright: ignore[reportMissingImports]
        projected_gradient_descent as module,
    )

    x_adv = module.projected_gradient_descent(
        network,
        x,
        eps=sizes.eps,
        eps_iter=sizes.step_size,
        nb_iter=sizes.steps,
        norm=np.inf,  # pyright: ignore[reportArgumentType]
        clip_min=0,
        clip_max=1,
        y=y,
        rand_init=sizes.random_start,
        sanity_checks=False,  # their own advice where time counts
    )
    return x_adv.detach()


def art(network: nn.Module, x: Tensor, y: Tensor, sizes: Sizes) -> Tensor:
    """Adversarial Robustness Toolbox: Nicolae et al. 2018, arXiv:1807.01069."""
    from art.attacks.evasion import (  # pyright: ignore[reportMissingImports]
        ProjectedGradientDescentPyTorch,
    )

    attack = ProjectedGradientDescentPyTorch(
        _art_classifier(network),
        eps=sizes.eps,
        eps_step=sizes.step_size,
        max_iter=sizes.steps,
        num_random_init=int(sizes.random_start),
        batch_size=len(x),
        verbose=False,
    )
    # NumPy in and out is its interface, so the way there and back is part of its time.
    x_adv = torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy()))
    return x_adv.to(x.device, memory_format=torch.channels_last)


@cache
def _foolbox_model(network: nn.Module) -> Any:  # noqa: ANN401
    from foolbox.models.pytorch import PyTorchModel

    return PyTorchModel(network, bounds=(0, 1), device=next(network.parameters()).device)


@cache
def _art_classifier(network: nn.Module) -> Any:  # noqa: ANN401
    from art.estimators.classification import (  # pyright: ignore[reportMissingImports]
        PyTorchClassifier,
    )

    return PyTorchClassifier(
        network,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu" if next(network.parameters()).device.type == "cpu" else "gpu",
    )


class Peer(NamedTuple):
    """An implementation that competes with ours."""

    attack: Callable[[nn.Module, Tensor, Tensor, Sizes], Tensor]  # of a network, images, labels
    module: str = ""  # what must be importable, or nothing
    distribution: str = ""  # where its version is found
    # Memory format of the weights and images that it is given. What papers ship knows nothing of
    # memory formats; everyone else gets the faster one.
    layout: torch.memory_format = torch.channels_last


PLAIN = "plain loop"
PEERS = {
    "foolbox": Peer(foolbox, "foolbox", "foolbox"),
    "torchattacks": Peer(torchattacks, "torchattacks", "torchattacks"),
    "cleverhans": Peer(cleverhans, "cleverhans", "cleverhans"),
    "ART": Peer(art, "art", "adversarial-robustness-toolbox"),
    PLAIN: Peer(plain_loop),
    "plain loop, default layout": Peer(plain_loop, layout=torch.contiguous_format),
}


def installed() -> dict[str, Peer]:
    """The peers that can take part here."""
    return {name: peer for name, peer in PEERS.items() if not peer.module or find_spec(peer.module)}


def versions() -> dict[str, str | None]:
    """Version of each peer by distribution; ``None`` where one is not installed."""
    return {
        peer.distribution: metadata.version(peer.distribution) if find_spec(peer.module) else None
        for peer in PEERS.values()
        if peer.module
    }
