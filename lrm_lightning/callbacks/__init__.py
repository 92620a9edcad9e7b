"""Callbacks: robust accuracy while training and at the end, checkpoints, progress."""

from lrm_lightning.callbacks.checkpoints import (
    MidEpochCheckpoint,
    RunCheckpoint,
    run_checkpoints,
)
from lrm_lightning.callbacks.correctness import Correctness
from lrm_lightning.callbacks.progress import Progress
from lrm_lightning.callbacks.robust_accuracy import RobustAccuracy
from lrm_lightning.callbacks.wandb_media import WandbMedia

__all__ = [
    "Correctness",
    "MidEpochCheckpoint",
    "Progress",
    "RobustAccuracy",
    "RunCheckpoint",
    "WandbMedia",
    "run_checkpoints",
]
