"""Batch norm over all processes' images, on any device: torch's own knows GPUs alone."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the global batch.

    Every process must hold equally many images. Without running statistics to record, as in eval
    mode and in any attack, nothing is communicated: an attack never waits for other processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same shape."""
        recording = self.training and self.track_running_stats
        if not recording or not dist.is_available() or not dist.is_initialized():
            return super().forward(x)
        dims, ranks = (0, 2, 3), dist.get_world_size()
        mean = _SumOverRanks.apply(x.mean(dim=dims)) / ranks
        centred = x - mean.view(1, -1, 1, 1)
        variance = _SumOverRanks.apply(centred.square().mean(dim=dims)) / ranks
        self._record(mean.detach(), variance.detach(), count=ranks * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        assert self.weight is not None
        assert self.bias is not None
        return torch.addcmul(
            self.bias.view(1, -1, 1, 1), centred * scale, self.weight.view(1, -1, 1, 1)
        )

    def _record(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Move the running statistics as :class:`torch.nn.BatchNorm2d` does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


class _SumOverRanks(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of all processes' gradients.

    The one of ``torch.distributed.nn.functional`` is deprecated, without a public successor that
    has a gradient.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return _SumOverRanks.forward(None, gradient)
