"""What a person sees while a run trains: how long it will take, then a line an epoch."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lrm_lightning.runs.directory import STATUS
from lrm_lightning.runs.files import duration, write_json
from lrm_lightning.training.robust_accuracy import RobustAccuracy

# The first steps are slow: memory is allocated and kernels are chosen.
SKIPPED_STEPS, TIMED_STEPS = 5, 15


class Progress(L.Callback):
    """Prints the time that a run will take after its first steps, then its accuracies every epoch.

    The latest line is also kept in ``status.json`` of the run directory, for whoever started the
    run. Training time is part of the checkpoint, so that a resumed run reports all of it.

    Args:
        run_dir: The run directory.
        robust_accuracy: The callback that attacks.
    """

    def __init__(self, run_dir: Path, robust_accuracy: RobustAccuracy) -> None:
        self._status = run_dir / STATUS
        self._attacked = robust_accuracy
        self._earlier_s, self._started = 0.0, time.monotonic()
        self._steps, self._timed_from = 0, 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, those before an interruption included."""
        return self._earlier_s + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier_s = float(state_dict["elapsed_s"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_epoch, self._epochs_from = trainer.current_epoch, time.monotonic()
        device = pl_module.device if pl_module.device.type != "cpu" else "the processor"
        again = f", resumed at step {trainer.global_step:,}" if trainer.global_step else ""
        self._say(
            f"training {trainer.max_epochs} epochs of {trainer.num_training_batches:,} steps"
            f" on {device}{again}"
        )

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._steps += 1
        if self._steps == SKIPPED_STEPS:
            self._timed_from = time.monotonic()
        elif self._steps == SKIPPED_STEPS + TIMED_STEPS:
            step_s = (time.monotonic() - self._timed_from) / TIMED_STEPS
            total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
            self._say(
                f"about {duration((total - trainer.global_step) * step_s)} of training at"
                f" {step_s:.3f} s a step, attacks on validation images excluded"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        each = (time.monotonic() - self._epochs_from) / (epoch - self._first_epoch)
        metrics = self._attacked.val_metrics if self._attacked.active else {}
        shown = [
            f"{key.removeprefix('val/acc/')} {100 * value:.1f}%"
            for key, value in metrics.items()
            if key.startswith("val/acc/")
        ]
        left = f", {duration(each * (epochs - epoch))} left" if epoch < epochs else ""
        self._say(f"epoch {epoch}/{epochs}: {', '.join(shown) or 'not attacked'}{left}")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count = sum(trainer.num_test_batches)
        self._say(f"testing: {count} batches of the test split, natural, FGSM and PGD")

    @rank_zero_only
    def _say(self, message: str) -> None:
        print(message, flush=True)  # noqa: T201  (a person reads it)
        write_json(self._status, {"message": message, "elapsed_s": round(self.elapsed_s, 1)})
