"""The average of a network's weights over training, which is tested in their place."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging

from lrm_lightning.checks import check_number


class EMA(EMAWeightAveraging):
    r"""Keeps an exponential moving average of the weights, which is validated, tested and saved.

    .. math:: \bar w_1 = w_1, \qquad \bar w_t = \tau\, \bar w_{t-1} + (1 - \tau)\, w_t

    after every step. Batch norm's running statistics are averaged like the weights. In a checkpoint
    ``state_dict`` is the average, and the weights that training goes on from lie beside it.

    Lightning's callback has three faults that this class corrects: a test of a checkpoint uses the
    trained weights, not their average; so does the test after the resume of a finished training;
    and on a GPU the average lies in the memory of the CPU.

    Args:
        decay: :math:`\tau` in [0, 1).

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.995) -> None:
        check_number("decay", decay, low=0, below=1)
        super().__init__(decay=decay)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_end(trainer, pl_module)
