"""A sweep without torch whose jobs end well, badly, late or not at all."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 200.0  # seconds until a test gives up; a busy machine is no failure
REPOSITORY = Path(__file__).parents[2]

CONFIG = """
defaults: [_self_, {override hydra/launcher: process}]
name: a
behaviour: ok
rerun: false
trainer: {accelerator: cpu, devices: 1}
hydra:
  run: {dir: '${hydra.sweep.dir}/${hydra.sweep.subdir}'}
  sweep: {dir: runs, subdir: '${name}'}
  launcher: {module: quick_job, preload: warm, validator: rules.validate, grace: 0.5,
    cores: 4}
"""

# What the fork server imports, and how a job knows whose fork it is.
WARM = "import os; PID = os.getpid(); os.environ['SET_BY_WARM'] = 'yes'"

RULES = """
from lrm_lightning.errors import UserError

def validate(cfg):
    if cfg.behaviour == "forbidden":
        raise UserError(f"behaviour={cfg.behaviour} is not allowed")
"""

# Started as a job: reads the overrides without Hydra, which would take most of a test's time.
QUICK_JOB = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

SLEEPER = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(300)
'''

HANGING = ("hang", "stubborn", "polite", "family")

def write(path, content):
    path.with_suffix(".new").write_text(json.dumps(content))
    path.with_suffix(".new").rename(path)

def play(name, behaviour, out, number):
    with (out / "calls").open("a") as calls:
        first = calls.tell() == 0
        calls.write("x")
    pids = [os.getpid()]
    begin = time.time()
    if behaviour in ("family", "straggler"):
        child = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE)
        child.stdout.readline()
        pids.append(child.pid)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "polite":
        def save(*_):
            (out / "saved").write_text("checkpoint")
            sys.exit(3)
        signal.signal(signal.SIGTERM, save)
    write(out / "status.json", {"message": f"epoch 1/1 of {name}"})
    write(out / "seen.json", {
        "environment": dict(os.environ), "pids": pids, "session": os.getsid(0),
        "server": getattr(sys.modules.get("warm"), "PID", None),
        "arguments": sys.argv[1:], "number": number, "folder": os.getcwd(), "begin": begin,
        "threads": __import__("torch").get_num_threads() if behaviour == "threads" else None})
    if behaviour in HANGING or (behaviour == "hang_once" and first):
        time.sleep(300)
    while behaviour == "meet" and len(list(out.parent.glob("*/seen.json"))) < 2:
        time.sleep(0.02)
    while behaviour == "wait" and not Path("go").exists():
        time.sleep(0.02)
    if behaviour == "fail":
        print("some words before")
        sys.exit(f"error: {name} has no data; run make data")
    if behaviour == "crash":
        raise KeyError("nothing here")
    if behaviour == "silent":
        return
    write(out / "record.json", {
        "method": name, "seed": 0, "n": 200, "score": 0.25, "end": time.time(),
        "metrics": {"clean": 0.875, "fgsm": 0.5, "pgd20": 0.25},
        "intervals": {"clean": [0.82, 0.91], "fgsm": [0.43, 0.57], "pgd20": [0.19, 0.31]},
        "data": {"name": "CIFAR-10", "official": False, "note": "not the official bytes"}})

if __name__ == "__main__":
    given = dict(item.split("=", 1) for item in sys.argv[1:] if "=" in item)
    play(given.get("name", "a"), given.get("behaviour", "ok"), Path(given["hydra.run.dir"]),
         int(given["hydra.job.num"]))
"""

APP = """
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from quick_job import play

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    config = HydraConfig.get()
    play(cfg.name, cfg.behaviour, Path(config.runtime.output_dir), config.job.num)

if __name__ == "__main__":
    main()
"""


class App:
    """The application in a folder of its own, and its multiruns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen] = []
        (folder / "conf").mkdir()
        for name, text in {
            "conf/config.yaml": CONFIG,
            "rules.py": RULES,
            "quick_job.py": QUICK_JOB,
            "warm.py": WARM,
            "app.py": APP,
        }.items():
            (folder / name).write_text(text)

    def start(self, *arguments: str, multirun: bool = True, **settings) -> subprocess.Popen:
        """Start a multirun; ``environment`` and other ``settings`` of Popen as given."""
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
        environment.pop("OMP_NUM_THREADS", None)  # of the tests; it would limit the jobs' shares
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | settings
        process = subprocess.Popen(
            [sys.executable, "app.py", *(["-m"] if multirun else []), *arguments],
            cwd=self.folder,
            env=environment | settings.pop("environment", {}),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **settings,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, code: int = 0, **settings) -> str:
        """Output of a multirun that must end with this exit code and no traceback of its own."""
        process = self.start(*arguments, **settings)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, output
        own = "\n".join(line for line in output.splitlines() if not line.startswith("    "))
        for sign in ("Traceback", "HYDRA_FULL_ERROR", "Error executing job"):
            assert sign not in own
        return output

    def run_on_terminal(self, *arguments: str, until: str) -> str:
        """All that a terminal shows; waiting jobs go on when it has shown ``until``."""
        ours, theirs = pty.openpty()
        environment = {"TERM": "xterm", "LINES": "40", "COLUMNS": "120"}
        process = self.start(*arguments, environment=environment, stdout=theirs, stderr=theirs)
        os.close(theirs)
        output = b""
        while True:
            try:
                output += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if until.encode() in output:
                (self.folder / "go").touch()
        os.close(ours)
        assert process.wait(timeout=PATIENCE) == 0, output
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())

    def file(self, name: str, kind: str) -> Path:
        return self.folder / "runs" / name / kind

    def seen(self, name: str) -> dict:
        return json.loads(self.file(name, "seen.json").read_text())

    def servers(self, *names: str) -> list[int | None]:
        """Whose fork each job was; None for a process of its own."""
        return [self.seen(name)["server"] for name in names]

    def record(self, name: str) -> dict:
        return json.loads(self.file(name, "record.json").read_text())

    def calls(self, *names: str) -> list[int]:
        """How often each job's process was started."""
        files = [self.file(name, "calls") for name in names]
        return [len(file.read_text()) if file.exists() else 0 for file in files]

    def wait_for(self, *names: str) -> list[int]:
        """Process ids of these jobs and of what they started, once they are all up."""
        files = [self.file(name, "seen.json") for name in names]
        _wait_until(lambda: all(file.exists() for file in files))
        return [pid for name in names for pid in self.seen(name)["pids"]]

    @staticmethod
    def assert_gone(pids: list[int]) -> None:
        """Signals take a moment, hence the patience."""
        assert pids
        _wait_until(lambda: not any(App.alive(pid) for pid in pids))

    @staticmethod
    def alive(pid: int) -> bool:
        """Whether the process runs; a zombie doesn't."""
        try:
            os.kill(pid, 0)
            stat = Path(f"/proc/{pid}/stat")
            return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
        except (ProcessLookupError, FileNotFoundError):
            return False

    def clean_up(self) -> None:
        """End what a failed assertion left behind."""
        for process in self.started:
            process.kill()
            process.communicate()
        for file in self.folder.glob("runs/*/seen.json"):
            seen = json.loads(file.read_text())
            for pid in [*seen["pids"], seen["server"]]:
                if pid is not None and self.alive(pid):
                    os.kill(pid, signal.SIGKILL)


def _wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path)
    yield app
    app.clean_up()
