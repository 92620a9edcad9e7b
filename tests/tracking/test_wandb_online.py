"""The real client and a server on this machine: what arrives, whatever happens in between."""

import gc
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from lrm_lightning.runs import directory
from lrm_lightning.runs.settings import write_settings
from lrm_lightning.tracking.loggers import add_evaluation
from lrm_lightning.tracking.wandb import RunLogger

pytestmark = pytest.mark.slow

CONFIG = {"seed": 7, "method": {"name": "alp"}}
EPOCH = 5  # steps
HERE = Path(__file__).parent


class Training:
    """A process that trains: what it logs depends on the step alone."""

    def __init__(self, folder, **settings):
        folder.mkdir(exist_ok=True)
        self.logger = RunLogger(str(folder), project="tests", group="table1", **settings)
        self.logger.log_hyperparams(CONFIG)

    def train(self, first, last):
        for step in range(first, last):
            epoch = step // EPOCH
            self.logger.log_metrics({"train/loss": 1 / (1 + step), "epoch": epoch}, step)
            if step % EPOCH == EPOCH - 1:
                self.logger.log_metrics({"val/acc/pgd10": accuracy(epoch), "epoch": epoch}, step)
        return self

    def test(self, step):
        self.logger.log_metrics({"test/acc/pgd20": 0.25, "epoch": step // EPOCH}, step)
        picture = np.zeros((8, 24, 3), np.uint8)
        self.logger.log_image("test/examples", [picture] * 2, step, caption=["one", "two"])
        return self


def accuracy(epoch):
    return [0.25, 0.75, 0.5, 0.625][epoch]


def assert_complete(run, steps, *, tested=True, extra=0):
    """Every row of an undisturbed training, in order; ``extra`` of them once more."""
    rows = [
        {key: value for key, value in row.items() if not key.startswith("_")} for row in run.history
    ]
    wanted = []
    for step in range(steps):
        shared = {"epoch": step // EPOCH, "trainer/global_step": step}
        wanted.append({"train/loss": 1 / (1 + step)} | shared)
        if step % EPOCH == EPOCH - 1:
            wanted.append({"val/acc/pgd10": accuracy(step // EPOCH)} | shared)
    if tested:
        end = {"trainer/global_step": steps}
        wanted += [{"test/acc/pgd20": 0.25, "epoch": steps // EPOCH} | end, end]
        (examples,) = [row.pop("test/examples") for row in rows if "test/examples" in row]
        assert examples["captions"] == ["one", "two"]
    assert len(rows) == len(wanted) + extra
    once = [row for place, row in enumerate(rows) if row not in rows[:place]]
    assert once == wanted
    assert run.summary["val/acc/pgd10"] == accuracy(steps // EPOCH - 1)


def _until(condition):
    while not condition():
        time.sleep(0.01)


def _offline(folder):
    """Offline files, and those of them that are not uploaded."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return files, [each for each in files if not each.with_suffix(".wandb.synced").exists()]


def test_one_run_with_everything(server, tmp_path, capfd):
    weights, folder = tmp_path / "last.ckpt", tmp_path / "alp-01"
    weights.write_bytes(b"weights")
    training = Training(folder, job_type="alp", tags=["digits"], checkpoint=True)
    training.train(0, 10).test(10).logger.close(weights=weights)
    (run,) = server.runs.values()
    assert_complete(run, 10)
    assert run.exit_code == 0
    names = ("groupName", "jobType", "displayName", "tags")
    assert [run.settings[name] for name in names] == ["table1", "alp", "alp-01", ["digits"]]
    assert run.config["seed"]["value"] == 7
    assert run.config["method"]["value"] == {"name": "alp"}
    axes = {each.get("1", each.get("2")) for each in run.config["_wandb"]["value"]["m"]}
    assert axes == {"trainer/global_step", "*"}
    assert run.artifacts == [f"model-{run.name}"]
    assert len([path for path in server.files if path.endswith(".png")]) == 1  # one content
    assert _offline(folder) == ([], [])
    assert capfd.readouterr() == ("", "")
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert len(files) > 3
    assert not [each for each in files if b"k" * 40 in each.read_bytes()]  # the key


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_wandb_online import Training
training = Training(Path({folder!r})).train(0, 13)
print("trained", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_goes_on_in_the_same_run(server, interpreter, tmp_path):
    program = KILLED.format(tests=str(HERE), folder=str(tmp_path / "run"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([interpreter, "-c", program], **pipes) as process:
        assert process.stdout.readline() == "trained\n"
        _until(lambda: server.runs and len(next(iter(server.runs.values())).history) == 15)
        process.communicate("\n")
    assert process.returncode == -9
    Training(tmp_path / "run").train(10, 20).test(20).logger.close()
    (run,) = server.runs.values()
    assert_complete(run, 20, extra=1)


def test_an_outage_amid_training(server, tmp_path, capfd):
    training = Training(tmp_path).train(0, 3)
    server.failing = True
    training.train(3, 10)
    _until(lambda: server.refused)
    training.train(10, 20)
    server.failing = False
    training.test(20).logger.close()
    (run,) = server.runs.values()
    assert_complete(run, 20)
    assert run.exit_code == 0
    assert capfd.readouterr() == ("", "")


def test_an_outage_that_outlasts_the_run(server, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("lrm_lightning.tracking.wandb.FINISH_S", 1)
    training = Training(tmp_path).train(0, 10)
    server.failing = True
    training.test(10).logger.close()
    first, second = capfd.readouterr().out.splitlines()
    assert first == f"W&B: uploading what was left offline in {tmp_path}"
    assert second == "W&B: not all is uploaded; the same command, given again, does it"
    files, left = _offline(tmp_path)
    assert files == left
    assert len(files) == 1
    server.failing = False
    RunLogger(str(tmp_path)).upload_rest({"val/acc/pgd10": 1.0})
    (run,) = server.runs.values()
    assert_complete(run, 10)
    assert _offline(tmp_path) == (files, [])
    RunLogger(str(tmp_path)).upload_rest({"val/acc/pgd10": 1.0})
    assert capfd.readouterr() == (f"{first}\n", "")


def test_unreachable_at_the_start(silent_server, tmp_path, capfd):
    training = Training(tmp_path).train(0, 20)
    line, _ = capfd.readouterr()
    assert line.startswith("W&B: offline (")
    assert line.endswith(f"`wandb sync {tmp_path}/wandb` uploads this run\n")
    assert silent_server.runs == {}
    silent_server.start()
    training.test(20).logger.close()
    (run,) = silent_server.runs.values()
    assert_complete(run, 20)
    assert run.exit_code == 0
    assert capfd.readouterr() == (f"W&B: uploading what was left offline in {tmp_path}\n", "")


def test_offline_first_then_online(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    Training(tmp_path).train(0, 10).logger.close(failed=True)
    assert server.runs == {}
    monkeypatch.delenv("WANDB_MODE")
    Training(tmp_path).train(10, 20).test(20).logger.close()
    (run,) = server.runs.values()
    assert_complete(run, 20)


def test_offline_runs_that_are_uploaded_by_hand(server, interpreter, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    Training(tmp_path).train(0, 13).logger.close(failed=True)
    Training(tmp_path).train(10, 20).test(20).logger.close()
    assert server.runs == {}
    monkeypatch.delenv("WANDB_MODE")
    sync = [interpreter, "-m", "wandb", "sync", str(tmp_path / "wandb")]
    subprocess.run(sync, check=True, capture_output=True)
    (run,) = server.runs.values()
    assert_complete(run, 20, extra=3)
    assert len({row["_step"] for row in run.history}) == len(run.history)


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_in_a_sweep_of_wandb_agent_the_run_is_the_agents(server, tmp_path, monkeypatch):
    parameters = tmp_path / "config.yaml"
    parameters.write_text("wandb_version: 1\nmethod.smoothing:\n  value: 0.5\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    monkeypatch.setenv("WANDB_RUN_ID", "agents1")
    Training(tmp_path / "run").train(0, 10).test(10).logger.close()
    assert_complete(server.runs["agents1"], 10)
    # the same parameters again: nothing is trained, and the sweep has the result
    monkeypatch.setenv("WANDB_RUN_ID", "agents2")
    RunLogger(str(tmp_path / "run")).upload_rest({"val/acc/pgd10": 0.75})
    assert list(server.runs) == ["agents1", "agents2"]
    run = server.runs["agents2"]
    assert (run.settings["sweep"], run.exit_code) == ("sweep1", 0)
    assert run.summary["val/acc/pgd10"] == 0.75


def test_training_goes_on_when_wandbs_own_process_dies(server, tmp_path, capfd):
    training = Training(tmp_path).train(0, 10)
    processes = [each for each in gc.get_objects() if type(each) is subprocess.Popen]
    (process,) = [
        each for each in processes if "wandb-core" in str(each.args) and each.poll() is None
    ]
    process.kill()
    process.wait()
    training.train(10, 20).test(20).logger.close()
    assert capfd.readouterr().out.count("W&B: nothing more is logged") == 1


@pytest.fixture
def trained(server, tmp_path):
    """The directory of a run that is complete on the server, and what the server has of it."""
    folder = tmp_path / "alp-00000000"
    Training(folder).train(0, 10).test(10).logger.close()
    told = {"_target_": "a.stranger", "project": "tests", "entity": None, "mode": "auto"}
    config = {"checkpoint": {"select": "last"}, "logger": {"wandb": told}}
    network = {"_target_": "a.Network"}
    write_settings(folder / directory.CONFIG, {"network": network, "config": config})
    (run,) = server.runs.values()
    return folder, run


def test_what_an_evaluation_finds_joins_the_summary(trained):
    folder, run = trained
    before = dict(run.summary)
    add_evaluation(folder, "strong", {"clean": 0.75, "autoattack": 0.5})
    added = {"eval/strong/clean": 0.75, "eval/strong/autoattack": 0.5}
    assert run.summary.items() >= added.items()
    assert run.summary.items() >= {k: v for k, v in before.items() if k[0] != "_"}.items()
    assert_complete(run, 10)


def test_an_evaluation_in_an_outage_is_added_by_the_next_process(
    trained, server, interpreter, capsys
):
    folder, run = trained
    before = dict(run.summary)
    server.failing = True
    add_evaluation(folder, "paper", {"pgd20": 0.25})
    assert f"the evaluation is not added to the W&B run of {folder} (" in capsys.readouterr().out
    assert _offline(folder) == ([], [])
    assert run.summary == before
    server.failing = False  # the same command, given later
    # W&B gets time, for other tests run beside it; if it lets the time pass, the user asks again.
    code = (
        "from lrm_lightning.tracking import wandb; wandb.CONNECT_S = wandb.FINISH_S = 60\n"
        "from lrm_lightning.tracking.loggers import add_evaluation\n"
        "from pathlib import Path; import sys\n"
        "add_evaluation(Path(sys.argv[1]), 'paper', {'pgd20': 0.25})"
    )
    told = []
    while "eval/paper/pgd20" not in run.summary and len(told) < 3:
        command = [interpreter, "-c", code, str(folder)]
        told.append(subprocess.run(command, check=True, capture_output=True, text=True))
    assert run.summary.get("eval/paper/pgd20") == 0.25, told


def test_an_evaluation_of_a_run_without_wandb_says_so(server, make_run, processes, quick):
    folder = make_run()
    words = (f"runs=[{folder}]", *quick, "suite=paper", "wandb=true")
    words = [word for word in words if not word.startswith("suite.") and word != "suite=strong"]
    environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
    run = processes.start("lrm_lightning.evaluate", *words, **environment).ends()
    assert "the evaluation is not added" in run.output
    assert "(this run directory has none)" in run.output
    assert server.runs == {}
