"""Batch norm over the images of all processes, as one process with the whole batch computes it."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, nn


class BatchNormSync(LayerSync):
    """A Trainer's plugin that synchronises batch norm on any device.

    On GPUs it is torch's :class:`torch.nn.SyncBatchNorm`, which Lightning's own flag insists on;
    that one refuses images on a CPU, where it is :class:`SyncBatchNorm2d`.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        if dist.get_backend() == "nccl":
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SyncBatchNorm2d
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, (nn.SyncBatchNorm, SyncBatchNorm2d)):
                module.__class__ = nn.BatchNorm2d  # pyright: ignore[reportAttributeAccessIssue]
        return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the global batch, on a CPU.

    Every process must hold equally many images. Statistics are float32 or better, whatever autocast
    makes of the images. Without running statistics to record, as in eval mode and in any attack,
    nothing is communicated: an attack never waits for other processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        recording = self.training and self.track_running_stats
        if not recording or not dist.is_initialized():
            return super().forward(x)
        assert self.weight is not None
        assert self.bias is not None
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        dims, ranks = (0, 2, 3), dist.get_world_size()
        mean = _SumOverRanks.apply(precise.mean(dim=dims)) / ranks
        centred = precise - mean.view(1, -1, 1, 1)
        variance = _SumOverRanks.apply(centred.square().mean(dim=dims)) / ranks
        self._record(mean.detach(), variance.detach(), count=ranks * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        bias, weight = (each.view(1, -1, 1, 1) for each in (self.bias, self.weight))
        return torch.addcmul(bias, centred * scale, weight).to(x.dtype)

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
