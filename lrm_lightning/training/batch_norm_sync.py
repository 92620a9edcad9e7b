"""Has a Trainer synchronise batch norm in our way."""

from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import nn

from lrm_lightning.models.sync_batch_norm import SyncBatchNorm2d


class BatchNormSync(LayerSync):
    """A Trainer's plugin that makes batch norm span all processes, on any device."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Make every :class:`torch.nn.BatchNorm2d` of ``model`` a synchronised one, in place."""
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SyncBatchNorm2d
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """The other way round."""
        for module in model.modules():
            if type(module) is SyncBatchNorm2d:
                module.__class__ = nn.BatchNorm2d  # pyright: ignore[reportAttributeAccessIssue]
        return model
