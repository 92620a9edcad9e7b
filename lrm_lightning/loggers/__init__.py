"""Where metrics go: a CSV file always, Weights & Biases by default."""

from lrm_lightning.loggers.metrics_csv import MetricsCSV, SavedBeforeCheckpoints
from lrm_lightning.loggers.wandb import finish_wandb, wandb_logger

__all__ = ["MetricsCSV", "SavedBeforeCheckpoints", "finish_wandb", "wandb_logger"]
