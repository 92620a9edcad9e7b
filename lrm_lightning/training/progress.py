"""What a person sees while a run trains: how long it will take, a line an epoch, and a bar."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lrm_lightning.runs.directory import STATUS
from lrm_lightning.runs.files import counted, duration, write_json
from lrm_lightning.runs.provenance import has_bfloat16
from lrm_lightning.training.robust_accuracy import RobustAccuracy

# The first steps are slow: memory is allocated and kernels are chosen.
SKIPPED_STEPS, TIMED_STEPS = 5, 15
LOSS_EVERY = 20  # steps between two losses of the bar: reading one waits for a GPU


class Progress(L.Callback):
    """Prints the time that a run will take after its first steps, then its accuracies every epoch.

    On a terminal a bar below shows the steps, the time left, the loss and the last robust accuracy;
    a progress bar of Lightning's among the callbacks takes its place. The latest line and how many
    epochs are finished are kept in ``status.json`` of the run directory. Training time is part of
    the checkpoint, so that a resumed run reports all of it.

    Args:
        run_dir: The run directory.
        robust_accuracy: The callback that attacks.

    Attributes:
        epoch_s: Mean seconds of an epoch since the last start, validation included.
    """

    epoch_s: float | None = None

    def __init__(self, run_dir: Path, robust_accuracy: RobustAccuracy) -> None:
        self._status = run_dir / STATUS
        self._attacked = robust_accuracy
        self._earlier_s, self._started = 0.0, time.monotonic()
        self._steps, self._timed_from = 0, 0.0
        self._robust = ""  # the last robust accuracy
        self._bar = Bar()

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
        epochs = counted(trainer.max_epochs or 1, "epoch")
        steps = counted(int(trainer.num_training_batches), "step")
        self._say(f"training {epochs} of {steps} on {device}{again}", trainer.current_epoch)
        on_cpu = pl_module.device.type == "cpu"
        if on_cpu and trainer.precision == "bf16-mixed" and not has_bfloat16():
            told = "this processor emulates bfloat16; trainer.precision=32-true is faster on it"
            self._say(told, trainer.current_epoch)
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        self._show(trainer, "training", total=total, completed=done, facts="")

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._steps += 1
        for task in self._bar.task_ids:
            self._bar.update(task, completed=trainer.global_step)
            if trainer.is_last_batch or self._steps % LOSS_EVERY == 0:
                self._bar.update(task, facts=", ".join([_loss(trainer), self._robust]).rstrip(", "))
        if self._steps == SKIPPED_STEPS:
            self._timed_from = time.monotonic()
        elif self._steps == SKIPPED_STEPS + TIMED_STEPS:
            step_s = (time.monotonic() - self._timed_from) / TIMED_STEPS
            steps_left = int(trainer.estimated_stepping_batches) - trainer.global_step
            left_s = steps_left * trainer.accumulate_grad_batches * step_s
            self._say(
                f"about {duration(left_s)} of training at"
                f" {step_s:.3f} s a step, attacks on validation images excluded",
                trainer.current_epoch,
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        each = (time.monotonic() - self._epochs_from) / (epoch - self._first_epoch)
        self.epoch_s = each
        metrics = self._attacked.val_metrics if self._attacked.active else {}
        shown = [
            f"{key.removeprefix('val/acc/')} {100 * value:.1f}%"
            for key, value in metrics.items()
            if key.startswith("val/acc/")
        ]
        self._robust = shown[-1] if shown else self._robust
        left = f", {duration(each * (epochs - epoch))} left" if epoch < epochs else ""
        self._say(f"epoch {epoch}/{epochs}: {', '.join([_loss(trainer), *shown])}{left}", epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar.stop()
        for each in trainer.early_stopping_callbacks:
            # A longer training of one that was stopped remembers that.
            if each.stopped_epoch and each.stopped_epoch + 1 == trainer.current_epoch:
                best = f"{each.monitor} was {float(each.best_score):.4g} at best"
                told = f"stopped early after epoch {trainer.current_epoch}: {best}"
                self._say(told, trainer.current_epoch)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count = sum(trainer.num_test_batches)
        batches = counted(int(count), "batch", "batches")
        what = f"testing: {batches} of the test split, natural, FGSM and PGD"
        self._say(what, trainer.current_epoch)
        self._show(trainer, "testing", total=count, completed=0, facts="")

    def on_test_batch_end(self, *_: object) -> None:
        self._bar.advance(self._bar.task_ids[0])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._bar.stop()

    def _show(self, trainer: L.Trainer, what: str, **task: Any) -> None:
        """Begin a bar."""
        console = Console()
        other = trainer.progress_bar_callback is not None or not trainer.is_global_zero
        self._bar = Bar(
            "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            "{task.fields[facts]}", console=console, transient=True, speed_estimate_period=600,
            disable=other or not console.is_terminal,
        )  # fmt: skip
        self._bar.add_task(what, **task)
        self._bar.start()

    @rank_zero_only
    def _say(self, message: str, epochs: int) -> None:
        """Print a line, and keep it with how many epochs are finished."""
        print(message, flush=True)  # noqa: T201  (a person reads it)
        status = {"message": message, "epochs": epochs, "elapsed_s": round(self.elapsed_s, 1)}
        write_json(self._status, status)


def _loss(trainer: L.Trainer) -> str:
    return f"loss {float(trainer.callback_metrics['train/loss']):.3f}"
