"""What a person reads while a run trains."""

import json
from types import SimpleNamespace

import pytest

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.methods import Regular
from lrm_lightning.training.progress import Progress, _duration
from lrm_lightning.training.robust_accuracy import RobustAccuracy


def test_a_line_an_epoch_with_its_own_accuracies(network, digits, make_trainer, tmp_path, capsys):
    callback = RobustAccuracy(PGDAttack(), steps=[1], n_images=4, every_n_epochs=2)
    trainer = make_trainer(
        callback, Progress(tmp_path), max_epochs=3, num_sanity_val_steps=1, limit_val_batches=1
    )
    trainer.fit(Regular(network), datamodule=digits)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training 3 epochs of 1 steps on the processor"
    assert [line.split(": ")[0] for line in lines[1:]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "not attacked" in lines[1]
    for line in lines[2:]:  # the last is attacked whatever every_n_epochs
        assert all(f"{name} " in line for name in ("clean", "fgsm", "pgd1"))
    assert "left" in lines[1]
    assert "left" not in lines[-1]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["message"] == lines[-1]
    assert status["elapsed_s"] >= 0


def test_an_epoch_that_was_not_attacked_shows_no_older_accuracy(
    network, digits, make_trainer, tmp_path, capsys
):
    callback = RobustAccuracy(PGDAttack(), steps=[1], n_images=4, every_n_epochs=2)
    trainer = make_trainer(
        callback, Progress(tmp_path), max_epochs=4, num_sanity_val_steps=0, limit_val_batches=1
    )
    trainer.fit(Regular(network), datamodule=digits)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert ["not attacked" in line for line in lines] == [True, False, True, False]


def test_validation_alone_prints_nothing(network, digits, make_trainer, tmp_path, capsys):
    trainer = make_trainer(Progress(tmp_path), limit_val_batches=1)
    trainer.validate(Regular(network), datamodule=digits, verbose=False)
    assert capsys.readouterr().out == ""


def test_time_of_an_interrupted_run_counts(tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("lrm_lightning.training.progress.time", clock)
    now = 1000.0
    first = Progress(tmp_path)
    now = 1060.0
    state = first.state_dict()
    now = 5.0  # another boot
    second = Progress(tmp_path)
    second.load_state_dict(state)
    now = 25.0
    assert second.elapsed_s == 80


def test_time_left_after_the_first_steps(tmp_path, monkeypatch, capsys):
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("lrm_lightning.training.progress.time", clock)
    progress = Progress(tmp_path)
    trainer = SimpleNamespace(max_epochs=10, num_training_batches=100, global_step=0)
    for step in range(1, 30):
        now += 5.0 if step <= 5 else 0.5
        trainer.global_step = step
        progress.on_train_batch_end(trainer, None, None, None, step)
    (line,) = capsys.readouterr().out.splitlines()
    # 980 of 1,000 steps at half a second; the slow first five don't count
    assert line.startswith("about 8 min of training at 0.500 s a step")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (36000, "10.0 h"),
    ],
)
def test_duration(seconds, text):
    assert _duration(seconds) == text
