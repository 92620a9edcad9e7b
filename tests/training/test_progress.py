"""What a person reads while a run trains."""

import json
from types import SimpleNamespace

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
    assert first == "training 5 epochs of 1 steps on the processor"
    assert [line.split(": ")[0] for line in lines] == [f"epoch {n}/5" for n in range(1, 6)]
    # An epoch that was not attacked shows no older accuracy; the last is attacked in any case.
    attacked = [False, True, False, True, True]
    assert ["not attacked" not in line for line in lines] == attacked
    for name in ("clean", "fgsm", "pgd1"):
        assert [f"{name} " in line for line in lines] == attacked
    assert [" left" in line for line in lines] == [True] * 4 + [False]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["message"] == lines[-1]
    assert status["elapsed_s"] >= 0


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


def test_time_left_after_the_first_steps(tmp_path, monkeypatch, capsys):
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("lrm_lightning.training.progress.time", clock)
    progress = Progress(tmp_path, RobustAccuracy(PGDAttack()))
    trainer = SimpleNamespace(max_epochs=10, num_training_batches=100, global_step=0)
    for step in range(1, 30):
        now += 5.0 if step <= 5 else 0.5
        trainer.global_step = step
        progress.on_train_batch_end(trainer, None, None, None, step)
    (line,) = capsys.readouterr().out.splitlines()
    # 980 of 1,000 steps at half a second; the slow first five don't count
    assert line.startswith("about 8 min of training at 0.500 s a step")
