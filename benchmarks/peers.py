"""Other implementations of FGSM and PGD behind one signature: a small function each.

Each is used as its documentation says. Networks come as they are after training, with parameters
that require gradients: who computes those gradients during an attack pays for them.
"""

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attack(Protocol):
    """L-inf PGD on labels; with one step of length ``eps`` and no random start it is FGSM."""

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        eps: float,
        step_size: float,
        steps: int,
        random_start: bool = True,
    ) -> Tensor:
        """Attacked images, shape of ``x``."""
        ...


def plain_loop(network: nn.Module) -> Attack:
    """The loop that papers ship."""

    def attack(
        x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, random_start: bool = True
    ) -> Tensor:
        x_adv = x.clone()
        if random_start:
            x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_()
            loss = F.cross_entropy(network(x_adv), y)
            loss.backward()
            assert x_adv.grad is not None
            moved = x_adv.detach() + step_size * x_adv.grad.sign()
            x_adv = torch.clamp(x + (moved - x).clamp(-eps, eps), 0, 1)
        return x_adv.detach()

    return attack


def foolbox(network: nn.Module) -> Attack:
    """Foolbox: Rauber et al. 2017, arXiv:1707.04131."""
    from foolbox.attacks import LinfPGD
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    model = PyTorchModel(network, bounds=(0, 1), device=_device(network))

    def attack(
        x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, random_start: bool = True
    ) -> Tensor:
        found = LinfPGD(abs_stepsize=step_size, steps=steps, random_start=random_start)
        return found.run(model, x, Misclassification(y), epsilon=eps)

    return attack


def torchattacks(network: nn.Module) -> Attack:
    """Torchattacks: Kim 2020, arXiv:2010.01950."""
    from torchattacks import PGD  # pyright: ignore[reportMissingImports]

    def attack(
        x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, random_start: bool = True
    ) -> Tensor:
        found = PGD(network, eps=eps, alpha=step_size, steps=steps, random_start=random_start)
        return found(x, y)

    return attack


def cleverhans(network: nn.Module) -> Attack:
    """CleverHans: Papernot et al. 2018, arXiv:1610.00768."""
    from cleverhans.torch.attacks import (  # pyright: ignore[reportMissingImports]
        projected_gradient_descent as module,
    )

    def attack(
        x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, random_start: bool = True
    ) -> Tensor:
        found = module.projected_gradient_descent(
            network,
            x,
            eps=eps,
            eps_iter=step_size,
            nb_iter=steps,
            norm=np.inf,  # pyright: ignore[reportArgumentType]
            clip_min=0,
            clip_max=1,
            y=y,
            rand_init=random_start,
            sanity_checks=False,  # their own advice where time counts
        )
        return found.detach()

    return attack


def art(network: nn.Module) -> Attack:
    """Adversarial Robustness Toolbox: Nicolae et al. 2018, arXiv:1807.01069."""
    from art.attacks.evasion import (  # pyright: ignore[reportMissingImports]
        ProjectedGradientDescentPyTorch,
    )
    from art.estimators.classification import (  # pyright: ignore[reportMissingImports]
        PyTorchClassifier,
    )

    classifier = PyTorchClassifier(
        network,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu" if _device(network).type == "cpu" else "gpu",
    )

    def attack(
        x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, random_start: bool = True
    ) -> Tensor:
        found = ProjectedGradientDescentPyTorch(
            classifier,
            eps=eps,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=int(random_start),
            batch_size=len(x),
            verbose=False,
        )
        # NumPy in and out is its interface, so the way there and back is part of its time.
        x_adv = torch.from_numpy(found.generate(x.cpu().numpy(), y.cpu().numpy()))
        return x_adv.to(x.device, memory_format=torch.channels_last)

    return attack


Factory = Callable[[nn.Module], Attack]
# name -> (how it attacks a network, module, distribution)
PEERS: dict[str, tuple[Factory, str, str]] = {
    "foolbox": (foolbox, "foolbox", "foolbox"),
    "torchattacks": (torchattacks, "torchattacks", "torchattacks"),
    "cleverhans": (cleverhans, "cleverhans", "cleverhans"),
    "ART": (art, "art", "adversarial-robustness-toolbox"),
}


def installed() -> dict[str, Factory]:
    """The peers that are here."""
    return {name: factory for name, (factory, module, _) in PEERS.items() if find_spec(module)}


def versions() -> dict[str, str | None]:
    """Versions of all peers by distribution; ``None`` where one is not installed."""
    found: dict[str, str | None] = {}
    for _, module, distribution in PEERS.values():
        found[distribution] = metadata.version(distribution) if find_spec(module) else None
    return found


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
