"""A finished run directory in a moment, and configurations as the command line makes them."""

import gc
import os
import signal
import sys

import pytest
import yaml
from hypothesis import settings

from tests.interpreter import SELDOM, stand_in, warm_forks

# Under nohup, or in the background of a script, these signals are ignored, and what is started from
# here would ignore them as well: tests that interrupt a process need them as a terminal gives them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


# The same examples everywhere, however slow the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_configure(config):
    """Hide GPUs from all tests but ``-m gpu``: the others find the same on every machine."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    """Long tests come first: one that is left for the end keeps the other cores waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Spare the garbage collector what is here to stay, and let it look less often at the rest."""
    gc.collect()
    gc.freeze()  # all that was imported, and the tests
    gc.set_threshold(SELDOM)


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
    # Not at the top: the process that only hands tests out to others would import torch as well.
    import torch
    from torch import nn

    from lrm_lightning.data import DigitsDataModule
    from lrm_lightning.models import ResNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet(**NETWORK)
        datamodule = DigitsDataModule(batch_size=64, crop_padding=0)
        datamodule.setup()
        optimizer = torch.optim.Adam(network.parameters())
        loader, epochs = datamodule.train_dataloader(), 6
        # It ends at a rate of 0: at a high one the accuracy depends on how the machine rounds.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 2e-2, epochs=epochs, steps_per_epoch=len(loader)
        )
        for _ in range(epochs):
            for batch in loader:
                loss = nn.functional.cross_entropy(network(batch.x), batch.y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return network.eval(), datamodule.provenance()


@pytest.fixture
def make_run(tmp_path, _digits_network):
    """``make_run(name)``: a finished run directory with a network trained on the digits."""
    import torch

    from lrm_lightning.runs.files import write_json

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


@pytest.fixture(scope="session")
def composed():
    """``composed("evaluate", *overrides)``: the configuration, as the command line makes it."""
    from hydra import compose, initialize_config_dir

    from lrm_lightning.runs import identity

    def make(name, *overrides):
        with initialize_config_dir(str(identity.conf_dir()), version_base="1.3"):
            return compose(name, overrides=list(overrides))

    return make


@pytest.fixture
def quick():
    """Overrides that make the strong suite a matter of a second."""
    return QUICK


RUN = """
import gc, os, runpy, signal, sys
gc.freeze()
gc.set_threshold(seldom)
os.chdir(folder)
os.environ |= environment
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
sys.stdout = open(1, "w", buffering=1, closefd=False)
sys.stderr = open(2, "w", buffering=1, closefd=False)
sys.path.insert(0, folder)
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
torch.set_num_threads(1)  # the same sums on every machine
exec(prelude)
sys.argv[1:] = arguments
sys.modules.pop(module, None)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


class Run:
    """A process of a command, and what it has printed."""

    def __init__(self, process, out, err):
        self.process = process
        self._out, self._err = out, err

    @property
    def output(self):
        return self._out.read_text()

    @property
    def errors(self):
        return self._err.read_text()

    def ends(self, code=0):
        """Wait; the process must end with this exit code, without traceback or warning."""
        self.process.join(600)
        assert self.process.exitcode == code, self.output + self.errors
        assert "Traceback" not in self.output + self.errors
        if code == 0:
            assert self.errors == ""
        return self

    def error(self):
        """Wait for a failure; the one line that it must say."""
        (line,) = self.ends(1).errors.splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory):
    """A program that is as ``python``, without those seconds either: see ``stand_in``."""
    if sys.platform != "linux":
        yield sys.executable
        return
    with stand_in(tmp_path_factory.mktemp("interpreter")) as path:
        yield path


class Processes:
    """Real processes of ``python -m <module> <arguments>``, without the seconds of importing torch.

    Args:
        folder: Where they run.
    """

    def __init__(self, folder):
        self.folder = folder
        self.server = warm_forks()
        self._started = []

    def start(self, module, *arguments, prelude="", **environment):
        """Start one; ``prelude`` is Python to execute in the process before."""
        number = len(self._started)
        files = {name: self.folder / f"{number}.{name}" for name in ("out", "err")}
        names = {name: str(path) for name, path in files.items()}
        names |= {"folder": str(self.folder), "module": module, "arguments": arguments}
        names |= {"prelude": prelude, "environment": environment, "seldom": SELDOM}
        process = self.server.Process(target=exec, args=(RUN, names))
        process.start()
        self._started.append(Run(process, **files))
        return self._started[-1]

    def run(self, module, *arguments, code=0):
        """Wait; returns what it printed, or of a failure the one line that it must say."""
        run = self.start(module, *arguments)
        return run.ends().output if code == 0 else run.error()

    def clean_up(self):
        """End what a failed assertion left behind."""
        for run in self._started:
            run.process.kill()
            run.process.join()


# Python raises the event before it does what the event is of.
KILLED_AT = """
import os, signal, sys
left = [{number}]

def watch(event, arguments):
    if event == "{event}" and any(str(each).endswith("{name}") for each in arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
"""


@pytest.fixture(scope="session")
def killed_at():
    """``killed_at("os.rename", "a.json", 2)``: prelude that kills the process when it is about to.

    The event is one of Python's audit events; the name is how a path in it ends.
    """
    return lambda event, name, number=1: KILLED_AT.format(event=event, name=name, number=number)


@pytest.fixture(scope="session")
def in_folder():
    """``in_folder(path)``: processes that run there; ``clean_up()`` ends them."""
    return Processes


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    yield found
    found.clean_up()
