"""A training step up to its gradients as one recording: attack, forward pass and backward pass.

The optimiser, gradient clipping and the schedule stay outside and ordinary. A replay checks no
values, which would wait for the device: of training that diverges the next validation's attacks say
so, and not the training attack.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrm_lightning.engine.graphs import Replayed


class Step(NamedTuple):
    """What a training step gives.

    Attributes:
        terms: Name to scalar, without a graph; the loss is their sum.
        gradients: The loss's, one a parameter; ``None`` for one that the loss does not depend on.
            They lie in memory that the next step overwrites.
    """

    terms: dict[str, Tensor]
    gradients: tuple[Tensor | None, ...]


class RecordedStep:
    """The gradients of a loss, recorded once for batches of each shape, and then replayed.

    Args:
        loss_terms: From tensors to the terms of the loss, by name.
        module: Its parameters get the gradients; see :class:`~lrm_lightning.engine.Replayed`.
        **recording: Further arguments of :class:`~lrm_lightning.engine.Replayed`.
    """

    def __init__(
        self,
        loss_terms: Callable[..., dict[str, Tensor]],
        module: nn.Module,
        **recording: Any,  # noqa: ANN401
    ) -> None:
        self._loss_terms = loss_terms
        self._module = module
        self._replayed = Replayed(self._compute, module, what="the training step", **recording)

    def ready(self, device: torch.device) -> bool:
        """Whether batches on ``device`` may be replayed, or recorded."""
        return self._replayed.ready(device)

    def __call__(self, *inputs: Tensor) -> Step | None:
        """The step of a batch; ``None``, and nothing has changed, where it can't be replayed."""
        found = self._replayed(*inputs)
        if found is None:
            return None
        names, values, gradients = found
        # Terms are logged, and looked at when another step has overwritten them.
        return Step(dict(zip(names, values.clone().unbind(), strict=True)), gradients)

    def forget(self) -> None:
        """Give the memory of all recordings back."""
        self._replayed.forget()

    def _compute(
        self, *inputs: Tensor
    ) -> tuple[tuple[str, ...], Tensor, tuple[Tensor | None, ...]]:
        """Names of the terms, their values ``(terms,)`` and the gradients."""
        # Where there are none yet, the backward pass puts new ones into the recording's own memory,
        # where every replay overwrites them instead of adding to them.
        self._take_gradients()
        terms = self._loss_terms(*inputs)
        values = torch.stack(list(terms.values()))
        values.sum().backward()
        return tuple(terms), values.detach(), self._take_gradients()

    def _take_gradients(self) -> tuple[Tensor | None, ...]:
        parameters = list(self._module.parameters())
        gradients = tuple(parameter.grad for parameter in parameters)
        for parameter in parameters:
            parameter.grad = None
        return gradients


class Drawn:
    """Stands for whatever changes from step to step while a step is recorded: it may not be asked.

    A recording would go on with the answer for ever. Asked for anything but :attr:`tensors`, it
    raises :class:`RuntimeError`.

    Args:
        tensors: What was drawn before, which the recording reads anew at every replay.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        raise RuntimeError(f"the loss asks for {name!r}, which a recording would freeze")
