"""Callbacks: robust accuracy while training and at the end, and progress."""

from lrm_lightning.callbacks.correctness import Correctness
from lrm_lightning.callbacks.progress import Progress
from lrm_lightning.callbacks.robust_accuracy import RobustAccuracy

__all__ = ["Correctness", "Progress", "RobustAccuracy"]
