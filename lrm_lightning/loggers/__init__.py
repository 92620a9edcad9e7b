"""Where metrics go: a CSV file always, Weights & Biases by default."""

from lrm_lightning.loggers.metrics_csv import MetricsCSV, SavedBeforeCheckpoints
from lrm_lightning.loggers.wandb import RunLogger, uploads_rest, wandb_logger

__all__ = ["MetricsCSV", "RunLogger", "SavedBeforeCheckpoints", "uploads_rest", "wandb_logger"]
