"""Enough of SLURM to submit a sweep and to run its tasks one by one, in processes of this machine.

``FakeSlurm`` is for tests. The file itself, under the names of SLURM's commands, is the commands:
what is submitted lies in ``$FAKE_SLURM/<number>/``, and runs when a test starts it.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scontrol", "srun")


class FakeSlurm:
    """The commands in a folder, and what has been submitted by them.

    Args:
        folder: An empty one.
    """

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name in COMMANDS:
            command = folder / "bin" / name
            command.write_text(f"#!{sys.executable} -IS\n{Path(__file__).read_text()}")
            command.chmod(0o755)
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {"PATH": path, "FAKE_SLURM": str(folder)}
        self.started = []

    def refuse(self, words):
        """Have ``sbatch`` fail with these words."""
        (self.folder / "refuse").write_text(words)

    @property
    def submitted(self):
        """Each array's options by name, with its indices as ``tasks``."""
        files = sorted(self.folder.glob("*/options.json"), key=lambda path: int(path.parent.name))
        return [json.loads(path.read_text()) for path in files]

    @property
    def requeued(self):
        """The tasks that asked to be queued again."""
        log = self.folder / "requeued"
        return log.read_text().splitlines() if log.exists() else []

    def start(self, task, number=1, *, folder, **environment):
        """Start one task of an array, as on a node; returns its process."""
        options = self.submitted[number - 1]
        own = {
            "SLURM_JOB_ID": f"{number}{task:03}",
            "SLURM_ARRAY_JOB_ID": str(number),
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_CPUS_PER_TASK": options.get("cpus-per-task", "1"),
            "SLURM_NTASKS_PER_NODE": options.get("ntasks-per-node", "1"),
        }
        log = folder / options.get("output", "slurm-%a.out").replace("%a", str(task))
        with log.open("a") as output:
            process = subprocess.Popen(
                ["bash", self.folder / str(number) / "script"],
                cwd=folder,
                env=os.environ | self.environment | own | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, task, number=1, *, folder, code=0, **environment):
        """Run one task to its end, after which it is in the queue no more."""
        process = self.start(task, number, folder=folder, **environment)
        assert process.wait(600) == code
        (self.folder / "queue" / f"{number}_{task}").unlink(missing_ok=True)

    def clean_up(self):
        """End what a failed assertion left behind."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def sbatch(folder, arguments):
    """Keep the script and the options."""
    if (folder / "refuse").exists():
        sys.exit((folder / "refuse").read_text())
    given = dict(each[2:].split("=", 1) for each in arguments if "=" in each and each[:2] == "--")
    number = len(list(folder.glob("*/options.json"))) + 1
    (folder / str(number)).mkdir()
    script = f"#!/bin/sh\n{given['wrap']}\n" if "wrap" in given else Path(arguments[-1]).read_text()
    (folder / str(number) / "script").write_text(script)
    first, last = given["array"].partition("%")[0].split("-")
    given["tasks"] = list(range(int(first), int(last) + 1))
    (folder / str(number) / "options.json").write_text(json.dumps(given))
    (folder / "queue").mkdir(exist_ok=True)
    for task in given["tasks"]:
        name = given.get("job-name", "wrap")
        (folder / "queue" / f"{number}_{task}").write_text(f"{name} {task}\n")
    print(number)


def srun(arguments):
    """Run a command once a task, hand signals on, and end with the worst exit code."""
    while arguments[0].startswith("--"):
        arguments = arguments[1:]
    tasks = int(os.environ["SLURM_NTASKS_PER_NODE"])
    own = {"SLURM_NTASKS": str(tasks), "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0"}
    started = [
        subprocess.Popen(
            arguments,
            env=os.environ | own | {f"SLURM_{key}": str(rank) for key in ("PROCID", "LOCALID")},
        )
        for rank in range(tasks)
    ]
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: [each.send_signal(number) for each in started])
    codes = [process.wait() for process in started]
    sys.exit(max(code if code >= 0 else 128 - code for code in codes))


def main():
    """Be the command of this file's name."""
    folder, name, arguments = Path(os.environ["FAKE_SLURM"]), Path(sys.argv[0]).name, sys.argv[1:]
    if name == "sbatch":
        sbatch(folder, arguments)
    elif name == "squeue":
        print(end="".join(each.read_text() for each in (folder / "queue").glob("*")))
    elif name == "scontrol":
        with (folder / "requeued").open("a") as log:
            log.write(f"{arguments[-1]}\n")
    else:
        srun(arguments)


if __name__ == "__main__":
    main()
