"""The real client and a server on this machine: all arrives, once, whatever happens in between."""

import gc
import subprocess
import sys
import time

import numpy as np
import pytest
from omegaconf import OmegaConf

from lrm_lightning.tracking.metrics_csv import MetricsCSV
from lrm_lightning.tracking.wandb import wandb_logger
from lrm_lightning.tracking.wandb_journal import Journal

pytestmark = pytest.mark.slow

CFG = OmegaConf.create(
    {
        "logger": {"wandb": True, "project": "tests", "entity": None, "mode": "auto", "tags": []},
        "method": {"name": "alp"},
        "data": {"name": "digits"},
        "sweep": "table1",
        "rerun": False,
    }
)
CONFIG = {"seed": 7, "method": {"name": "alp"}}
EPOCH = 5  # steps


class Training:
    """A process that trains: what it logs depends on the step alone."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.metrics = MetricsCSV(folder / "metrics.csv")
        self.journal = Journal(folder, self.metrics)
        tracker = wandb_logger(CFG, folder, CONFIG, "0123abcd", self.metrics)
        assert tracker is not None
        self.tracker = tracker

    def log(self, row, step):
        for logger in (self.metrics, self.tracker):
            logger.log_metrics(row, step)

    def train(self, first, last):
        for step in range(first, last):
            epoch = step // EPOCH
            self.log({"train/loss": 1 / (1 + step), "epoch": epoch}, step)
            if step % EPOCH == EPOCH - 1:
                self.log({"val/acc/pgd10": accuracy(epoch), "epoch": epoch}, step)
                histogram = {"counts": [epoch, 1], "edges": [-1.0, 0.0, 1.0]}
                media = {"val/logits/adv/histogram": histogram, "epoch": epoch}
                self.tracker.log_media(media, step)
        self.metrics.finalize("")
        return self

    def test(self, step):
        self.log({"test/acc/pgd20": 0.25, "epoch": step // EPOCH}, step)
        self.metrics.finalize("")
        self.tracker.keep_examples(examples(), step)
        self.tracker.publish(None)
        return self


def accuracy(epoch):
    return [0.25, 0.75, 0.5, 0.625][epoch]


def examples():
    generator = np.random.default_rng(0)
    x = generator.random((2, 3, 8, 8), dtype=np.float32)
    numbers = {name: np.zeros(2, int) for name in ("index", "y", "clean_class", "adv_class")}
    numbers |= {name: np.full(2, 0.5) for name in ("clean_probability", "adv_probability")}
    return numbers | {"x": x, "x_adv": np.clip(x + 0.01, 0, 1)}


def assert_complete(run, steps, *, tested=True):
    """Every row of an undisturbed training, each once, in order."""
    rows = [
        {key: value for key, value in row.items() if not key.startswith("_")} for row in run.history
    ]
    wanted = []
    for step in range(steps):
        shared = {"epoch": step // EPOCH, "trainer/global_step": step}
        wanted.append({"train/loss": 1 / (1 + step)} | shared)
        if step % EPOCH == EPOCH - 1:
            wanted.append({"val/acc/pgd10": accuracy(step // EPOCH)} | shared)
            wanted.append(shared)
    if tested:
        end = {"trainer/global_step": steps}
        wanted += [{"test/acc/pgd20": 0.25, "epoch": steps // EPOCH} | end, end]
    histograms = [row.pop("val/logits/adv/histogram")["values"] for row in rows if _media(row)]
    assert histograms == [[epoch, 1] for epoch in range(steps // EPOCH)]
    tables = [row.pop("test/examples") for row in rows if "test/examples" in row]
    assert [each["nrows"] for each in tables] == ([2] if tested else [])
    assert rows == wanted
    epochs = [accuracy(epoch) for epoch in range(steps // EPOCH)]
    assert run.summary["best/val/acc/pgd10"] == max(epochs)
    assert run.summary["val/acc/pgd10"] == epochs[-1]


def _media(row):
    return "val/logits/adv/histogram" in row


def _until(condition):
    while not condition():
        time.sleep(0.01)


def test_one_run_with_everything(server, tmp_path, capfd):
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    training = Training(tmp_path)
    assert training.journal.pending
    training.train(0, 10).test(10)
    training.tracker.publish(tmp_path / "last.ckpt")
    training.tracker.close()
    assert list(server.runs) == ["0123abcd"]
    run = server.runs["0123abcd"]
    assert_complete(run, 10)
    assert run.exit_code == 0
    assert run.settings["groupName"] == "table1"
    assert run.settings["jobType"] == "alp"
    assert run.settings["displayName"] == "alp-0123abcd"
    assert run.settings["tags"] == ["digits"]
    assert run.config["seed"]["value"] == 7
    assert run.config["method"]["value"] == {"name": "alp"}
    axes = {each.get("1", each.get("2")) for each in run.config["_wandb"]["value"]["m"]}
    assert axes == {"trainer/global_step", "epoch", "*"}
    assert [name for name in run.artifacts if name.startswith("model")] == ["model-0123abcd"]
    assert [name for name in run.artifacts if "examples" in name]
    assert not training.journal.pending
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_goes_on_in_the_same_run(server, tmp_path):
    Training(tmp_path).train(0, 13).tracker.close(failed=True)
    run = server.runs["0123abcd"]
    assert run.exit_code == 1
    assert_complete(run, 13, tested=False)
    # from a checkpoint at step 10: three steps are trained and logged once more
    Training(tmp_path).train(10, 20).test(20).tracker.close()
    assert list(server.runs) == ["0123abcd"]
    assert_complete(run, 20)
    assert run.exit_code == 0


def test_an_outage_amid_training(server, tmp_path, capfd):
    training = Training(tmp_path).train(0, 3)
    server.failing = True
    training.train(3, 10)
    _until(lambda: server.refused)
    training.train(10, 20)
    server.failing = False
    training.test(20).tracker.close()
    assert_complete(server.runs["0123abcd"], 20)
    assert server.runs["0123abcd"].exit_code == 0
    assert not training.journal.pending
    assert capfd.readouterr() == ("", "")


def test_an_outage_that_outlasts_the_run(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lrm_lightning.tracking.wandb_client.FINISH_S", 1.0)
    training = Training(tmp_path).train(0, 10)
    server.failing = True
    training.log({"test/acc/pgd20": 0.25, "epoch": 2}, 10)
    training.metrics.finalize("")
    training.tracker.keep_examples(examples(), 10)
    training.tracker.close()
    assert training.journal.pending
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "W&B: not all is uploaded; the same command, given again, does it"
    server.failing = False
    again = Training(tmp_path)
    again.tracker.publish(None)
    again.tracker.close()
    assert_complete(server.runs["0123abcd"], 10)
    assert not again.journal.pending


def test_unreachable_at_the_start(silent_server, tmp_path, capsys):
    training = Training(tmp_path).train(0, 20)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("W&B: offline, with another attempt at the end (")
    assert silent_server.runs == {}
    silent_server.start()
    training.test(20).tracker.close()
    assert_complete(silent_server.runs["0123abcd"], 20)
    assert silent_server.runs["0123abcd"].exit_code == 0
    assert not training.journal.pending
    # `wandb sync` would upload it a second time
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.with_suffix(".wandb.synced").exists()
    assert capsys.readouterr().out == ""


def test_unreachable_until_the_command_is_given_again(silent_server, tmp_path, capsys):
    training = Training(tmp_path).train(0, 10).test(10)
    training.tracker.close()
    assert training.journal.pending
    assert len(capsys.readouterr().out.splitlines()) == 2
    silent_server.start()
    again = Training(tmp_path)
    again.tracker.publish(None)
    again.tracker.close()
    assert_complete(silent_server.runs["0123abcd"], 10)


def test_the_same_configuration_in_another_directory_is_another_run(server, tmp_path):
    Training(tmp_path / "one").train(0, 10).test(10).tracker.close()
    Training(tmp_path / "two").train(0, 5).tracker.close(failed=True)
    Training(tmp_path / "two").train(5, 10).test(10).tracker.close()
    first, second = server.runs
    assert first == "0123abcd"
    assert second.startswith("0123abcd-")
    for run in server.runs.values():
        assert_complete(run, 10)


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_in_a_sweep_of_wandb_agent_the_run_is_the_agents(server, tmp_path, monkeypatch):
    parameters = tmp_path / "config.yaml"
    parameters.write_text("wandb_version: 1\nmethod.smoothing:\n  value: 0.5\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    for number in (1, 2):  # the second finds a finished run
        monkeypatch.setenv("WANDB_RUN_ID", f"agents{number}")
        training = Training(tmp_path / "run")
        if number == 1:
            training.train(0, 10).test(10)
        training.tracker.publish(None)
        training.tracker.close()
        assert_complete(server.runs[f"agents{number}"], 10)
    assert list(server.runs) == ["agents1", "agents2"]
    assert server.runs["agents2"].settings["sweep"] == "sweep1"


def test_training_goes_on_when_wandbs_own_process_dies(server, tmp_path):
    training = Training(tmp_path).train(0, 10)
    processes = [each for each in gc.get_objects() if type(each) is subprocess.Popen]
    (process,) = [
        each for each in processes if "wandb-core" in str(each.args) and each.poll() is None
    ]
    process.kill()
    process.wait()
    training.train(10, 20).test(20).tracker.close()
    assert_complete(server.runs["0123abcd"], 20)
    assert not training.journal.pending


def test_offline_runs_that_are_uploaded_by_hand(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    Training(tmp_path).train(0, 13).tracker.close(failed=True)
    Training(tmp_path).train(10, 20).test(20).tracker.close()
    assert server.runs == {}
    files = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(files) == 2
    monkeypatch.delenv("WANDB_MODE")
    sync = [sys.executable, "-m", "wandb", "sync", *map(str, files)]
    subprocess.run(sync, check=True, capture_output=True)
    assert list(server.runs) == ["0123abcd"]
    assert_complete(server.runs["0123abcd"], 20)
