"""What a run leaves behind, and that running it again leaves it alone."""

import json
import shutil

import numpy as np
import pytest
import torch

from lrm_lightning.data import DigitsDataModule
from lrm_lightning.runs.networks import load_model, weights_sha256
from lrm_lightning.training.progress import Progress
from lrm_lightning.training.run import train

ATTACKS = ["clean", "fgsm", "pgd2", "pgd4"]


def test_directory(undisturbed):
    names = {path.name for path in undisturbed.path.iterdir()}
    assert names >= {"config.yaml", "checkpoints", "metrics.csv", "record.json", "correct.npz"}
    assert (undisturbed.path / "checkpoints/last.ckpt").exists()
    assert not list(undisturbed.path.rglob("*.partial*"))


def test_record_says_what_it_is_of(undisturbed):
    record = undisturbed.record
    assert record["method"] == "lrm"
    assert record["seed"] == 0
    assert (record["epochs"], record["global_step"], record["n"]) == (2, 6, 30)
    data = record["data"]
    assert (data["name"], data["official"], data["n_val"]) == ("digits", True, 40)
    assert len(data["fingerprint"]) == 64
    assert record["attack"]["eps"] == 0.01
    assert record["attack"]["steps"] == [2, 4]
    assert record["config"]["method"]["pairing_to_adversarial_ratio"] == 0.125
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["git"]) == {"commit", "dirty"}
    assert record["hardware"]["device"] == "cpu"
    assert 0 < record["epoch_s"] <= record["wall_s"]
    assert record["peak_memory_bytes"] > 50 * 2**20  # torch alone takes more
    assert record["score"] == record["val_metrics"]["val/acc/pgd2"]
    assert record["weights"] == {"last": weights_sha256(load_model(undisturbed.path))}


def test_metrics_are_the_means_of_the_verdicts(undisturbed):
    record, verdicts = undisturbed.record, undisturbed.verdicts
    assert list(record["metrics"]) == ATTACKS
    assert np.array_equal(verdicts["index"], np.arange(30))
    for name in ATTACKS:
        accuracy = verdicts[name].sum() / 30
        assert verdicts[name].dtype == bool
        assert record["metrics"][name] == pytest.approx(accuracy, abs=1e-12)
        low, high = record["intervals"][name]
        assert 0 <= low <= accuracy <= high <= 1
        assert high - low > 0.1  # 30 images tell little
    assert record["metrics"]["clean"] > 0


def test_csv_has_every_epoch_and_every_term(undisturbed):
    rows = {int(row["step"]): row for row in undisturbed.metrics}
    assert sorted(rows) == [2, 5, 6]
    for step in (2, 5):
        row = rows[step]
        for name in ("clean", "fgsm", "pgd2"):
            assert 0 <= float(row[f"val/acc/{name}"]) <= 1
        terms = [
            float(row[f"train/loss/{term}"]) for term in ("adversarial", "squeezing", "pairing")
        ]
        assert min(terms) > 0
        assert float(row["train/loss"]) == pytest.approx(sum(terms), rel=1e-5)
        assert terms[2] / terms[0] == pytest.approx(0.125, rel=1e-5)
    score = undisturbed.record["score"]
    assert float(rows[5]["val/acc/pgd2"]) == pytest.approx(score, abs=1e-6)
    for name in ATTACKS:
        tested = float(rows[6][f"test/acc/{name}"])
        assert tested == pytest.approx(undisturbed.record["metrics"][name], abs=1e-6)


def test_loaded_network_makes_the_recorded_predictions(undisturbed):
    network = load_model(undisturbed.path)
    assert type(network).__module__.startswith("lrm_lightning.models")
    assert not any(module.training for module in network.modules())
    correct = _correct(network)
    assert np.array_equal(correct, undisturbed.verdicts["clean"])
    assert correct.mean() == undisturbed.record["metrics"]["clean"]


def _correct(network):
    """Which of the first thirty test images a network classifies correctly."""
    datamodule = DigitsDataModule(eval_batch_size=30)
    datamodule.setup("test")
    batch = next(iter(datamodule.test_dataloader()))
    with torch.no_grad():
        return (network(batch.x).argmax(dim=1) == batch.y).numpy()


def test_running_a_finished_run_again_trains_only_if_told_to(command, copy_of_undisturbed):
    def written():
        return {
            path: path.stat().st_mtime_ns
            for path in copy_of_undisturbed.rglob("*")
            if path.is_file() and path.suffix in {".json", ".ckpt", ".csv", ".npz"}
        }

    before = written()
    run = command.run("method=lrm")
    assert run.output.startswith("already finished")
    assert "training" not in run.output
    assert "lrm" in run.output.splitlines()[-3]  # the table
    assert written() == before
    run = command.run("method=lrm", "rerun=true")
    assert f"run directory: runs/digits/{copy_of_undisturbed.name}\n" in run.output
    assert "training 2 epochs" in run.output
    assert "resumed" not in run.output
    after = written()
    assert all(after[path] > before[path] for path in after.keys() & before.keys())
    not_yet = "from lrm_lightning.runs.directory import RunDir\nRunDir.clear = lambda self: None"
    assert "resumed" not in command.run("method=lrm", "rerun=true", prelude=not_yet).output


def test_a_refused_rerun_loses_nothing(command, finished, copy_of_undisturbed):
    shutil.copy(copy_of_undisturbed / "checkpoints/last.ckpt", command.folder / "start.ckpt")
    shutil.rmtree(copy_of_undisturbed)
    command.run("method=lrm", "init_from=start.ckpt")
    run = finished("lrm")
    command.start(
        "method=lrm", "init_from=start.ckpt", "rerun=true", "+logger.mine._target_=no.L"
    ).error()
    finished("lrm").assert_same_result(run)
    (command.folder / "start.ckpt").unlink()
    command.start("method=lrm", "init_from=start.ckpt", "rerun=true").error()
    finished("lrm").assert_same_result(run)


def test_a_refused_run_leaves_no_directory(command):
    for wrong in ("trainer.max_epochs=0", "method.smoothing=2", "init_from=nowhere"):
        command.start("method=pgd", wrong).error()
        assert not [*command.folder.glob("runs/digits/*")]
    (command.folder / "mine").mkdir()
    (command.folder / "mine/notes.txt").touch()
    command.start("method=pgd", "init_from=nowhere", "hydra.run.dir=mine").error()
    assert (command.folder / "mine/notes.txt").exists()


def test_without_validation_it_trains_on_everything_and_resumes(command, finished, snapshots):
    settings = ("method=regular", "data.val_size=0")
    command.run(*settings, prelude=snapshots)
    run = finished("regular")
    data = run.record["data"]
    assert (data["n_train"], data["n_val"]) == (1437, 0)
    assert (run.record["score"], run.record["val_metrics"]) == (None, {})
    assert len(run.verdicts["pgd4"]) == 30
    # what a kill between the training and the test would have left
    run.path.rename(run.path.with_name("whole"))
    shutil.copytree(command.folder / "snapshots/6-last", run.path)
    command.run(*settings)
    finished("regular").assert_same_result(run)


def test_the_best_weights_bring_their_score_and_no_other_state(
    composed, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(Progress, "load_state_dict", None)  # the time of a run would count twice
    settings = ("method=regular", "checkpoint.select=best", "optimizer.lr=1.0")
    score = train(composed("config", *small, *settings), tmp_path / "run")
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["val_metrics"] == best["callbacks"]["RobustAccuracy"]["val_metrics"]
    assert record["score"] == score == record["val_metrics"]["val/acc/pgd2"]


def test_best_weights_are_tested_and_loaded(command, finished):
    # at this rate the first epoch makes the network, and the second breaks it
    settings = ("method=regular", "checkpoint.select=best", "optimizer.lr=1.0")
    settings += ("model.widths=[8,8,16,32]",)
    command.run(*settings)
    run = finished("regular")
    best = torch.load(run.path / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == 0, run.metrics
    tested = load_model(run.path)
    assert np.array_equal(_correct(tested), run.verdicts["clean"])
    network = tested.state_dict()
    assert all(
        torch.equal(network[name], best["state_dict"][f"network.{name}"]) for name in network
    )
    last = load_model(run.path, checkpoint="last")
    assert torch.equal(last.state_dict()["linear.weight"], run.weights["network.linear.weight"])
    sha256 = {"last": weights_sha256(last), "best": weights_sha256(tested)}
    assert run.record["weights"] == sha256
    assert not np.array_equal(_correct(last), run.verdicts["clean"])
