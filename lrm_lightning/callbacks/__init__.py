"""Callbacks: robust accuracy while training and at the end, checkpoints, progress, signals."""

from lrm_lightning.callbacks.checkpoints import (
    MidEpochCheckpoint,
    RunCheckpoint,
    run_checkpoints,
)
from lrm_lightning.callbacks.correctness import Correctness
from lrm_lightning.callbacks.interruption import Interruption
from lrm_lightning.callbacks.progress import Progress
from lrm_lightning.callbacks.robust_accuracy import RobustAccuracy
from lrm_lightning.callbacks.wandb_media import WandbMedia

__all__ = [
    "Correctness",
    "Interruption",
    "MidEpochCheckpoint",
    "Progress",
    "RobustAccuracy",
    "RunCheckpoint",
    "WandbMedia",
    "run_checkpoints",
]
