"""SGD as the paper trains with it: which parameters decay, and the learning rate over time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lrm_lightning.checks import check_choice, check_flag, check_number

SCHEDULES = ("step", "one_cycle")


@dataclass(frozen=True)
class SGDRecipe:
    """Stochastic gradient descent and its schedule; the defaults are the paper's section 5.1.

    Attributes:
        lr: Peak learning rate for the global batch, whatever the number of devices.
        momentum: In [0, 1).
        nesterov: Nesterov's form of momentum; needs momentum > 0.
        weight_decay: L2 penalty on convolution and linear kernels, never on biases or batch norm.
        schedule: ``"step"``: linear warm-up, then times ``gamma`` at each milestone.
            ``"one_cycle"``: linear warm-up, then linearly down to 0 at the end of training.
        warmup_epochs: Length of the warm-up; fractions are fine.
        milestones: Epochs at which a ``"step"`` schedule drops.
        gamma: Factor of a drop.

    Raises:
        ValueError: If a value is out of range.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    schedule: str = "step"
    warmup_epochs: float = 5
    milestones: Sequence[float] = (100, 150)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_number("lr", self.lr, above=0)
        check_number("momentum", self.momentum, low=0, below=1)
        check_flag("nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs momentum > 0")
        check_number("weight_decay", self.weight_decay, low=0)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_number("warmup_epochs", self.warmup_epochs, low=0)
        check_number("gamma", self.gamma, above=0, high=1)
        if not isinstance(self.milestones, Sequence) or isinstance(self.milestones, str):
            raise ValueError(
                f"milestones={self.milestones!r} must be a list of epochs, e.g. [100, 150]"
            )
        for milestone in self.milestones:
            check_number("milestones", milestone, above=0)

    def optimizer(self, network: nn.Module) -> torch.optim.SGD:
        """SGD over ``network`` with decay on kernels (two axes or more) alone."""
        kernels = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        groups = [
            {"params": kernels, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )

    def lr_factor(self, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
        """The learning rate over ``lr`` as a function of the number of steps taken."""
        warmup = self.warmup_epochs * steps_per_epoch
        total = epochs * steps_per_epoch

        def one_cycle(step: int) -> float:
            return max(0.0, (total - step) / max(1.0, total - warmup))

        def step_drops(step: int) -> float:
            drops = sum(step >= milestone * steps_per_epoch for milestone in self.milestones)
            return self.gamma**drops

        after_warmup = one_cycle if self.schedule == "one_cycle" else step_drops

        def factor(step: int) -> float:
            return (step + 1) / (warmup + 1) if step < warmup else min(1.0, after_warmup(step))

        return factor
