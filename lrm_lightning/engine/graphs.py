"""On a GPU a small network is bound by the launching of its kernels: record them, then replay.

Written against torch's documentation of CUDA graphs and not yet run on a GPU, hence used only with
``engine=fast`` and not with ``auto``.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")
Inputs = tuple[Tensor, ...]
# From a function and what it reads to what runs it again, with its results where they lay before.
Recorder = Callable[[Callable[..., Any], Inputs], Callable[[], Any]]

# Full batches, and the last one of an epoch; each recording keeps its own memory.
MOST = 4
WARM_UP = 3


def record_cuda(function: Callable[..., Result], inputs: Inputs) -> Callable[[], Result]:
    """Record ``function(*inputs)`` as a CUDA graph.

    Args:
        function: Launches the same kernels every time and never waits for the device while
            it is recorded.
        inputs: What it reads at every replay, from where they lie now.

    Returns:
        Runs the graph and returns its result, which lies where it lay before.
    """
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    graph = torch.cuda.CUDAGraph()
    try:
        # One stream for both, so that what libraries set up for a stream is there when the capture
        # begins. A capture that fails leaves its stream current, which this context puts right.
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                function(*inputs)
            with torch.cuda.graph(graph, stream=aside):
                result = function(*inputs)
    finally:
        current.wait_stream(aside)

    def replay() -> Result:
        graph.replay()
        return result

    return replay


class Replayed(Generic[Result]):
    """A function of tensors that is recorded once for inputs of each kind, and then replayed.

    Args:
        function: From tensors to tensors, of which the host never learns the values.
        module: What else it reads, at every replay from where it lay at the recording. It may
            change buffers where they lie.
        what: What it computes, for the warning.
        recorder: How it is recorded.
        device: Type of the devices that the recorder knows.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        module: nn.Module,
        *,
        what: str,
        recorder: Recorder = record_cuda,
        device: str = "cuda",
    ) -> None:
        self._function = function
        self._module = module
        self._what = what
        self._recorder = recorder
        self._device = device
        self.forget()

    def forget(self) -> None:
        """Give the memory of all recordings back."""
        self._recordings: dict[Hashable, tuple[Inputs, Callable[[], Result]]] = {}
        self._most = MOST

    def ready(self, device: torch.device) -> bool:
        """Whether inputs on ``device`` may be replayed, or recorded."""
        return device.type == self._device and bool(self._recordings or self._most)

    def __call__(self, *inputs: Tensor) -> Result | None:
        """What the function gives, or ``None`` where it has to be called: it can't be replayed.

        Where it can't be recorded, it says so once and leaves everything as it was.

        Args:
            inputs: On one device.

        Returns:
            Lies in memory that the next call overwrites.
        """
        if not self.ready(inputs[0].device) or _has_hooks(self._module):
            return None
        key = self._key(inputs)
        if key not in self._recordings:
            if len(self._recordings) >= self._most:
                return None
            try:
                self._recordings[key] = self._record(inputs)
            except Exception as error:  # torch's own have many types, the function's any
                self._most = 0
                warnings.warn(
                    f"engine=fast: {self._what} is not recorded: {_one_line(error)}", stacklevel=2
                )
                return None
        static, replay = self._recordings[key]
        for mine, given in zip(static, inputs, strict=True):
            mine.copy_(given)
        return replay()

    def _record(self, inputs: Inputs) -> tuple[Inputs, Callable[[], Result]]:
        # clone() keeps the layout, and with it the kernels that are chosen.
        static = tuple(each.detach().clone() for each in inputs)
        device = inputs[0].device.type
        # Without autocast's cache: a cast of the weights kept from before would never be made anew.
        cast = torch.autocast(
            device, enabled=torch.is_autocast_enabled(device), cache_enabled=False
        )
        with _undisturbed(self._module), cast:
            return static, self._recorder(self._function, static)

    def _key(self, inputs: Inputs) -> Hashable:
        """What must be equal for a recording to be valid."""
        module, device = self._module, inputs[0].device.type
        read = chain(module.parameters(), module.buffers())
        return (
            tuple((each.shape, each.stride(), each.dtype, each.device) for each in inputs),
            tuple((each.data_ptr(), each.requires_grad) for each in read),
            tuple(each.training for each in module.modules()),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        )


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Afterwards buffers, gradients and torch's random states are what they were before."""
    buffers = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    devices = {each.device for each, _ in gradients if each.is_cuda}
    with torch.random.fork_rng(devices, device_type="cuda"):
        try:
            yield
            replaced = any(getattr(owner, name) is not it for owner, name, it, _ in buffers)
        finally:
            for owner, name, buffer, value in buffers:
                setattr(owner, name, buffer)
                buffer.copy_(value)
            for parameter, gradient in gradients:
                parameter.grad = gradient
    if replaced:
        raise RuntimeError("a buffer is replaced, not changed where it lies")


def _has_hooks(module: nn.Module) -> bool:
    """Whether something is called in the network's passes that a replay would leave out."""
    return any(
        each._forward_hooks or each._forward_pre_hooks or each._backward_hooks
        for each in module.modules()
    )


def _one_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
