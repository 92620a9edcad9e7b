"""What a person reads while a run trains."""

import io
import json
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from rich.console import Console

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.methods import Regular
from lrm_lightning.training.progress import Progress
from lrm_lightning.training.robust_accuracy import RobustAccuracy


def test_a_line_an_epoch_with_its_own_accuracies(network, digits, make_trainer, tmp_path, capsys):
    callback = RobustAccuracy(PGDAttack(), steps=[1], n_images=4, every_n_epochs=2)
    progress = Progress(tmp_path, callback)
    trainer = make_trainer(
        callback, progress, max_epochs=5, num_sanity_val_steps=1, limit_val_batches=1
    )
    trainer.fit(Regular(network), datamodule=digits)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "training 5 epochs of 1 step on the processor"
    assert [line.split(": ")[0] for line in lines] == [f"epoch {n}/5" for n in range(1, 6)]
    # An epoch that was not attacked shows no older accuracy; the last is attacked in any case.
    attacked = [False, True, False, True, True]
    assert all(re.match(r"epoch \d/5: loss \d\.\d{3}(,|$)", line) for line in lines)
    for name in ("clean", "fgsm", "pgd1"):
        assert [f"{name} " in line for line in lines] == attacked
    assert [" left" in line for line in lines] == [True] * 4 + [False]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["message"] == lines[-1]
    assert status["epochs"] == 5
    assert status["elapsed_s"] >= 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("emulated", [True, False])
def test_emulated_bfloat16_is_told(
    network, digits, make_trainer, tmp_path, capsys, monkeypatch, precision, emulated
):
    has = "lrm_lightning.training.progress.has_bfloat16"
    monkeypatch.setattr(has, lambda: not emulated)
    callback = RobustAccuracy(PGDAttack(), steps=[1], n_images=4)
    progress = Progress(tmp_path, callback)
    trainer = make_trainer(progress, precision=precision, max_epochs=1, limit_val_batches=0)
    trainer.fit(Regular(network), datamodule=digits)
    told = "this processor emulates bfloat16; trainer.precision=32-true is faster on it\n"
    assert (told in capsys.readouterr().out) == (precision == "bf16-mixed" and emulated)


def test_a_terminal_gets_a_bar_and_lines_above_it(
    network, digits, make_trainer, tmp_path, monkeypatch
):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr("lrm_lightning.training.progress.Console", lambda: console)
    callback = RobustAccuracy(PGDAttack(), steps=[1], test_steps=[1], n_images=4)
    trainer = make_trainer(
        callback, Progress(tmp_path, callback),
        max_epochs=3, log_every_n_steps=1, limit_val_batches=1, limit_test_batches=1,
    )  # fmt: skip
    trainer.fit(Regular(network), datamodule=digits)
    trainer.test(Regular(network), datamodule=digits, verbose=False)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"training .* 3/3 .* loss \d\.\d{3}, pgd1 \d+\.\d%", shown)
    assert re.search(r"testing .* 1/1 ", shown)
    assert "epoch 3/3: loss" in shown
    assert screen.getvalue().endswith("\x1b[2K")  # the bar is gone


def test_a_bar_of_lightnings_takes_its_place(network, digits, make_trainer, tmp_path, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr("lrm_lightning.training.progress.Console", lambda: console)
    callback = RobustAccuracy(PGDAttack(), steps=[1], n_images=4)
    trainer = make_trainer(
        callback, Progress(tmp_path, callback), TQDMProgressBar(),
        max_epochs=1, limit_val_batches=1, enable_progress_bar=True,
    )  # fmt: skip
    trainer.fit(Regular(network), datamodule=digits)
    assert screen.getvalue() == ""


def test_validation_alone_prints_nothing(network, digits, make_trainer, tmp_path, capsys):
    trainer = make_trainer(Progress(tmp_path, RobustAccuracy(PGDAttack())), limit_val_batches=1)
    trainer.validate(Regular(network), datamodule=digits, verbose=False)
    assert capsys.readouterr().out == ""


def test_time_of_an_interrupted_run_counts(tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("lrm_lightning.training.progress.time", clock)
    now = 1000.0
    first = Progress(tmp_path, RobustAccuracy(PGDAttack()))
    now = 1060.0
    state = first.state_dict()
    now = 5.0  # another boot
    second = Progress(tmp_path, RobustAccuracy(PGDAttack()))
    second.load_state_dict(state)
    now = 25.0
    assert second.elapsed_s == 80


@pytest.mark.parametrize("accumulated", [1, 4])
def test_time_left_after_the_first_steps(tmp_path, monkeypatch, capsys, accumulated):
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("lrm_lightning.training.progress.time", clock)
    progress = Progress(tmp_path, RobustAccuracy(PGDAttack()))
    trainer = SimpleNamespace(
        max_epochs=10, num_training_batches=100, global_step=0, current_epoch=0,
        accumulate_grad_batches=accumulated, estimated_stepping_batches=1000 // accumulated,
    )  # fmt: skip
    for step in range(1, 30):
        now += 5.0 if step <= 5 else 0.5
        trainer.global_step = step // accumulated
        progress.on_train_batch_end(trainer, None, None, None, step)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads((tmp_path / "status.json").read_text())["epochs"] == 0  # none is finished
    # 980 of 1,000 steps at half a second; the slow first five don't count
    assert line.startswith("about 8 min of training at 0.500 s a step")


def test_an_epoch_takes_the_mean_since_the_last_start(tmp_path, monkeypatch):
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("lrm_lightning.training.progress.time", clock)
    progress = Progress(tmp_path, RobustAccuracy(PGDAttack()))
    assert progress.epoch_s is None  # a run that was stopped in its test has none
    trainer = SimpleNamespace(
        max_epochs=10, num_training_batches=3, global_step=12, current_epoch=4, is_global_zero=True,
        estimated_stepping_batches=30, progress_bar_callback=None, early_stopping_callbacks=[],
        callback_metrics={"train/loss": 1.0}, precision="32-true",
    )  # fmt: skip
    now = 100.0
    progress.on_train_start(trainer, SimpleNamespace(device=torch.device("cpu")))
    now = 110.0
    progress.on_train_epoch_end(trainer, None)
    trainer.current_epoch, now = 5, 140.0
    progress.on_train_epoch_end(trainer, None)
    assert progress.epoch_s == 20
    progress.on_train_end(trainer, None)
