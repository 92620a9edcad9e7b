"""Learning rate over time, by the batch: the paper's drops (section 5.1) and one cycle.

Both have the signature of :class:`torch.optim.lr_scheduler.OneCycleLR`, which takes ``epochs`` and
``steps_per_epoch`` too: :class:`~lrm_lightning.methods.base.Defense` gives these two to every
schedule that asks for them and steps it after every batch. Any other scheduler of torch is stepped
after every epoch.
"""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lrm_lightning.checks import check_number


def step_drops(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 5,
    milestones: Sequence[float] = (100, 150),
    gamma: float = 0.1,
) -> LambdaLR:
    """Linear warm-up, then the learning rate times ``gamma`` at each milestone.

    Args:
        optimizer: Its learning rate is the one after the warm-up.
        epochs: Length of the training; not used, as the milestones say all.
        steps_per_epoch: Batches an epoch.
        warmup_epochs: Length of the warm-up, at least 0; fractions are fine.
        milestones: Epochs at which the learning rate drops, each above 0.
        gamma: Factor of a drop, in (0, 1].

    Raises:
        ValueError: If a value is out of range.
    """
    check_number("warmup_epochs", warmup_epochs, low=0)
    check_number("gamma", gamma, above=0, high=1)
    if not isinstance(milestones, Sequence) or isinstance(milestones, str):
        raise ValueError(f"milestones={milestones!r} must be a list of epochs, e.g. [100, 150]")
    for milestone in milestones:
        check_number("milestones", milestone, above=0)
    warmup = warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return gamma ** sum(step >= milestone * steps_per_epoch for milestone in milestones)

    return LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warmup_epochs: float = 1
) -> LambdaLR:
    """Linear warm-up, then linearly down to 0 at the end of training.

    Args:
        optimizer: Its learning rate is the peak.
        epochs: Length of the training.
        steps_per_epoch: Batches an epoch.
        warmup_epochs: Length of the warm-up, at least 0; fractions are fine.

    Raises:
        ValueError: If a value is out of range.

    References:
        Smith & Topin 2018, arXiv:1708.07120, without its last phase.
    """
    check_number("warmup_epochs", warmup_epochs, low=0)
    warmup, total = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, min(1.0, (total - step) / max(1.0, total - warmup)))

    return LambdaLR(optimizer, factor)
