"""A finished run directory in a moment, and configurations as the command line makes them."""

import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import nn

from lrm_lightning.data import DigitsDataModule
from lrm_lightning.models import ResNet
from lrm_lightning.runs import identity
from lrm_lightning.runs.files import write_json

# Under nohup, or in the background of a script, these signals are ignored, and what is started from
# here would ignore them as well: tests that interrupt a process need them as a terminal gives them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

NETWORK = {"depth": 1, "widths": [4, 4, 8, 8], "num_classes": 10}
# Everything that the strong suite does, a few steps of each.
QUICK = (
    "suite=strong",
    "n_images=24",
    "batch_size=10",
    "suite.pgd_steps=3",
    "suite.pgd_restarts=2",
    "suite.targets=2",
    "suite.targeted_steps=2",
    "suite.large_eps_steps=3",
    "suite.autoattack_iterations=2",
    "suite.square_queries=10",
)


@pytest.fixture(scope="session")
def _digits_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet(**NETWORK)
        datamodule = DigitsDataModule(batch_size=64, crop_padding=0)
        datamodule.setup()
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
        for _ in range(3):
            for batch in datamodule.train_dataloader():
                loss = nn.functional.cross_entropy(network(batch.x), batch.y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return network.eval(), datamodule.provenance()


@pytest.fixture
def make_run(tmp_path, _digits_network):
    """``make_run(name)``: a finished run directory with a network trained on the digits."""

    def make(name="regular-00000000", *, scale=1.0, finished=True, network=None):
        trained, provenance = _digits_network
        state = {f"network.{key}": value for key, value in trained.state_dict().items()}
        state["network.linear.weight"] = state["network.linear.weight"] * scale
        folder = tmp_path / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        torch.save({"state_dict": state}, folder / "checkpoints" / "last.ckpt")
        identity = {
            "method": {"name": "regular"},
            "data": {"_target_": "lrm_lightning.data.DigitsDataModule", "name": "digits"},
            "attack": {"norm": "linf", "eps": 0.1, "step_size": 0.04},
            "checkpoint": {"select": "last"},
            "seed": 0,
        }
        saved = {
            "network": {"_target_": "lrm_lightning.models.ResNet"} | NETWORK | (network or {}),
            "identity": identity,
            "config": identity | {"runs_dir": str(tmp_path)},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(saved))
        if finished:
            record = {"schema": 1, "run_id": name[-8:], "method": "regular", "data": provenance}
            write_json(folder / "record.json", record | {"n": 360, "metrics": {"clean": 0.9}})
        return folder

    return make


@pytest.fixture
def composed():
    """``composed("evaluate", *overrides)``: the configuration, as the command line makes it."""

    def make(name, *overrides):
        with initialize_config_dir(str(identity.conf_dir()), version_base="1.3"):
            return compose(name, overrides=list(overrides))

    return make


@pytest.fixture
def quick():
    """Overrides that make the strong suite a matter of a second."""
    return QUICK


RUN = """
import os, runpy, sys
os.chdir(folder)
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
sys.stdout = open(1, "w", buffering=1, closefd=False)
sys.stderr = open(2, "w", buffering=1, closefd=False)
sys.path.insert(0, folder)
import torch
torch.set_num_threads(1)
sys.argv[1:] = arguments
sys.modules.pop(module, None)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


class Processes:
    """Real processes of ``python -m <module> <arguments>``, without the seconds of importing torch.

    Args:
        folder: Where they run.
    """

    def __init__(self, folder):
        self.folder = folder
        self._server = multiprocessing.get_context("forkserver")
        # too late if another test has started the server: then a process imports what is missing
        self._server.set_forkserver_preload(["lrm_lightning.evaluate", "sklearn.datasets"])
        self._started = []

    def start(self, module, *arguments):
        number = len(self._started)
        files = {name: str(self.folder / f"{number}.{name}") for name in ("out", "err")}
        names = {"folder": str(self.folder), "module": module, "arguments": arguments} | files
        process = self._server.Process(target=exec, args=(RUN, names))
        process.start()
        self._started.append(process)
        process.files = files
        return process

    def run(self, module, *arguments, code=0):
        """Wait; returns what it printed, or of a failure the one line that it must say."""
        process = self.start(module, *arguments)
        process.join(280)
        out, err = (Path(process.files[name]).read_text() for name in ("out", "err"))
        assert process.exitcode == code, out + err
        assert "Traceback" not in out + err
        if code == 0:
            assert err == ""
            return out
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        return line

    def clean_up(self):
        for process in self._started:
            process.kill()
            process.join()


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    yield found
    found.clean_up()
