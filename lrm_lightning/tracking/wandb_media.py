"""What only W&B shows: how the logits are distributed, how fast it goes, what attacks look like."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import lightning as L
import numpy as np

from lrm_lightning.data import Batch
from lrm_lightning.training.robust_accuracy import RobustAccuracy

BINS = 64


class Sink(Protocol):
    """Who takes it."""

    def log_media(self, metrics: Mapping[str, Any], step: int) -> None:
        """Take numbers and histograms."""
        ...

    def keep_examples(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
        """Take adversarial examples."""
        ...


class WandbMedia(L.Callback):
    """Gives W&B, after each attacked validation, histograms of all logits and the training's speed.

    They are ``val/logits/clean/histogram``, ``val/logits/adv/histogram`` (of rank 0's images) and
    ``train/images_per_s``, all ranks together, validation excluded. Not in the metrics' file: time
    differs where results are equal. After the test it hands over the adversarial examples.

    Args:
        sink: The W&B logger.
        attacker: The callback whose logits and examples these are.
    """

    def __init__(self, sink: Sink, attacker: RobustAccuracy) -> None:
        self._sink = sink
        self._attacker = attacker
        self._images = 0
        self._began = self._ended = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self._images = 0
        self._began = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count."""
        self._images += len(batch.x) * trainer.world_size
        self._ended = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hand over an epoch: Lightning has logged its metrics by now."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        media: dict[str, Any] = {"epoch": trainer.current_epoch}
        if self._images and self._ended > self._began:
            media["train/images_per_s"] = self._images / (self._ended - self._began)
        if self._attacker.active:
            for kind, logits in self._attacker.logits.items():
                counts, edges = np.histogram(logits.float().numpy(), bins=BINS)
                histogram = {"counts": counts.tolist(), "edges": edges.tolist()}
                media[f"val/logits/{kind}/histogram"] = histogram
        # Lightning numbers steps from 0, and this one is done.
        self._sink.log_media(media, max(0, trainer.global_step - 1))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hand over the examples."""
        found = self._attacker.examples
        if found is None:
            return
        clean, adv = found.logits.softmax(dim=1).max(dim=1), found.logits_adv.softmax(1).max(1)
        arrays = {"index": found.index, "y": found.y, "x": found.x, "x_adv": found.x_adv}
        arrays |= {"clean_class": clean.indices, "clean_probability": clean.values}
        arrays |= {"adv_class": adv.indices, "adv_probability": adv.values}
        as_numpy = {name: each.numpy() for name, each in arrays.items()}
        self._sink.keep_examples(as_numpy, trainer.global_step)
