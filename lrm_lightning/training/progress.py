"""What a person sees while a run trains: how long it will take, then a line an epoch."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lrm_lightning.runs.directory import STATUS
from lrm_lightning.runs.files import write_json
from lrm_lightning.training.robust_accuracy import RobustAccuracy

# The first steps are slow: memory is allocated and kernels are chosen.
SKIPPED_STEPS, TIMED_STEPS = 5, 15


class Progress(L.Callback):
    """Prints the time a run will take after its first steps, then its metrics every epoch.

    The latest line is also kept in ``status.json`` of the run directory, for whoever started the
    run. Training time is part of the checkpoint, so that a resumed run reports all of it.

    Args:
        run_dir: The run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self._status = run_dir / STATUS
        self._earlier_s = 0.0
        self._started = time.monotonic()
        self._steps = 0
        self._timed_from = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, those before an interruption included."""
        return self._earlier_s + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far."""
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from a checkpoint."""
        self._earlier_s = float(state_dict["elapsed_s"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is about to happen."""
        self._first_epoch = trainer.current_epoch
        self._epochs_from = time.monotonic()
        again = f", resumed at step {trainer.global_step:,}" if trainer.global_step else ""
        self._say(
            f"training {trainer.max_epochs} epochs of {trainer.num_training_batches:,} steps"
            f" on {_device(pl_module)}{again}"
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """After the first steps, say how long the rest will take."""
        self._steps += 1
        if self._steps == SKIPPED_STEPS:
            self._timed_from = time.monotonic()
        elif self._steps == SKIPPED_STEPS + TIMED_STEPS:
            step_s = (time.monotonic() - self._timed_from) / TIMED_STEPS
            total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
            left = max(0, total - trainer.global_step) * step_s
            self._say(
                f"about {_duration(left)} of training at {step_s:.3f} s a step,"
                " attacks on validation images excluded"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what the epoch gave."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        each = (time.monotonic() - self._epochs_from) / (epoch - self._first_epoch)
        metrics = {
            key.rsplit("/", 1)[1]: f"{100 * float(value):.1f}%"
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val/acc/") and _attacked(trainer)
        }
        shown = ", ".join(f"{name} {value}" for name, value in metrics.items())
        left = f", {_duration(each * (epochs - epoch))} left" if epoch < epochs else ""
        self._say(f"epoch {epoch}/{epochs}: {shown or 'not attacked'}{left}")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the final evaluation begins."""
        count = sum(trainer.num_test_batches)
        self._say(f"testing: {count} batches of the test split, natural, FGSM and PGD")

    @rank_zero_only
    def _say(self, message: str) -> None:
        print(message, flush=True)  # noqa: T201  (a person reads it)
        write_json(self._status, {"message": message, "elapsed_s": round(self.elapsed_s, 1)})


def _attacked(trainer: L.Trainer) -> bool:
    # Of an epoch that was not attacked Lightning still shows the accuracies of an earlier one.
    attackers = [each for each in trainer.callbacks if isinstance(each, RobustAccuracy)]  # type: ignore[attr-defined]
    return all(attacker.active for attacker in attackers)


def _device(pl_module: L.LightningModule) -> str:
    device = pl_module.device
    return str(device) if device.type != "cpu" else "the processor"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
