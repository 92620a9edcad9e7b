"""On a GPU a small network is bound by the launching of its kernels: record them, then replay.

Written against torch's documentation of CUDA graphs and not yet run on a GPU, hence used only with
``engine=fast`` and not with ``auto``.
"""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Recorder = Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Callable[[], Tensor]]

# Full batches, and the last one of an epoch; each recording keeps its own memory.
MOST = 4
WARM_UP = 3


def record_cuda(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> Callable[[], Tensor]:
    """Record ``function(*inputs)`` as a CUDA graph.

    Args:
        function: Launches the same kernels every time and never waits for the device while
            it is recorded.
        inputs: What it reads at every replay, from where they lie now.

    Returns:
        Runs the graph and returns its result, which lies where it lay before.
    """
    current = torch.cuda.current_stream()
    aside = torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            function(*inputs)
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*inputs)

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class Replayed:
    """A function of tensors that is recorded once for inputs of each shape, and then replayed.

    Args:
        function: From tensors to a tensor. What else it reads, such as weights, it reads at every
            replay from where it lay at the recording.
        recorder: How it is recorded.
    """

    def __init__(
        self, function: Callable[..., Tensor], *, recorder: Recorder = record_cuda
    ) -> None:
        self._function = function
        self._recorder = recorder
        self._recordings: dict[Hashable, tuple[tuple[Tensor, ...], Callable[[], Tensor]]] = {}

    def __call__(self, *inputs: Tensor, key: Hashable = None) -> Tensor:
        """``function(*inputs)``, in memory of its own.

        Args:
            inputs: On one device.
            key: What must be equal for a recording to be valid, besides the inputs' shapes.
        """
        kinds = tuple((each.shape, each.stride(), each.dtype, each.device) for each in inputs)
        recording = self._recordings.get((key, kinds))
        if recording is None:
            if len(self._recordings) >= MOST:
                return self._function(*inputs)
            # clone() keeps the layout, and with it the kernels that are chosen.
            static = tuple(each.detach().clone() for each in inputs)
            recording = static, self._recorder(self._function, static)
            self._recordings[key, kinds] = recording
        static, replay = recording
        for mine, given in zip(static, inputs, strict=True):
            mine.copy_(given)
        return replay().clone()
