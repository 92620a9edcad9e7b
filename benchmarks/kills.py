"""Kill commands with SIGKILL, give each again, and compare: ``python -m benchmarks.kills``.

Every command is run once undisturbed, which notes what it writes and when. Then it is run with a
process that kills itself at one of those moments, and again without. What lies on the disk in the
end must be equal: weights and optimisers bit for bit, records but for their costs, verdicts,
pages. The seed chooses the moments. Everything is in ``.benchmarks/kills``; of a difference it
stays there.
"""

import argparse
import json
import multiprocessing
import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

from lrm_lightning.evaluation import suites as _suites
from lrm_lightning.reporting import page as _page
from lrm_lightning.runs.files import read_arrays
from lrm_lightning.runs.identity import conf_dir
from lrm_lightning.runs.integrity import content_sha256
from lrm_lightning.training import run as _run

IMPORTED = (_suites, _page, _run)  # by the commands, which import them late

# Commands are forked from this process, which has imported everything, as the jobs of a sweep are.
FORKS = multiprocessing.get_context("fork")
REPOSITORY = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
TRAIN = (
    "lrm_lightning.train", "data=digits", "data.batch_size=16", "data.val_size=20",
    "data.eval_batch_size=20", "model=resnet_tiny", "logger=csv", "trainer=cpu",
    "trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.limit_test_batches=1",
    "attack.eps=0.01", "attack.steps=1", "scheduler.warmup_epochs=0",
    "robust_accuracy.steps=[2]", "robust_accuracy.n_images=10",
    "robust_accuracy.test_steps=[2]", "robust_accuracy.test_n_images=20",
    "checkpoint.every_minutes=1e-9",
)  # fmt: skip
SWEEP = (TRAIN[0], "-m", *TRAIN[1:], "hydra.launcher.jobs=2", "hydra.launcher.cores=2")
RUNS = "runs=[runs/digits/lrm-*,runs/digits/pgd-*]"
SUITES = {
    "paper": ("suite.steps=5", "suite.table=[2,5]", "suite.logits_at=2"),
    "strong": (
        "suite.pgd_steps=3", "suite.pgd_restarts=2", "suite.targets=2", "suite.targeted_steps=2",
        "suite.large_eps_steps=3", "suite.autoattack_iterations=2", "suite.square_queries=10",
    ),
}  # fmt: skip
EVALUATE = ("lrm_lightning.evaluate", RUNS, "device=cpu", "n_images=20", "batch_size=10")
REPORT = ("lrm_lightning.report",)
# What is killed: a process that is about to write, or in a sweep the job, its fork server, or the
# sweep itself, which are that process, its parent and its parent's parent.
WHAT = ("training", "checkpoint", "evaluate", "report", "sweep")
VICTIMS = ("job", "fork server", "sweep")

# A process that executes this notes, or counts, what it does to files below its folder. It dies at
# the event that PLAN describes, some seconds after it, or has an ancestor die.
WATCHER = r"""
import json, os, platform, re, signal, sys, threading, time

ROOT, PLAN, LOG = os.getcwd() + "/", json.loads(os.environ["KILL_PLAN"]), os.environ["KILL_LOG"]
PARTIAL = rf"\.{re.escape(platform.node())}-\d+\.partial$"  # its name has the process
seen = {}

def kill(path):
    if "killed" in seen:  # an ancestor: what has no parent any more shall not kill another
        return
    seen["killed"] = True
    if PLAN["half"]:
        os.truncate(path, os.path.getsize(path) // 2)
    pid = os.getpid()
    for _ in range(PLAN["depth"]):
        with open(f"/proc/{pid}/stat") as stat:
            pid = int(stat.read().rpartition(")")[2].split()[1])
    os.kill(pid, signal.SIGKILL)

def watch(event, arguments):
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, str) or path == LOG or not flags & (os.O_WRONLY | os.O_RDWR):
            return
    elif event in ("os.rename", "os.link"):
        path = arguments[1]
    elif event == "os.remove":
        path = arguments[0]
    else:
        return
    path = os.path.abspath(path)
    if not path.startswith(ROOT):
        return
    what = f"{event} " + re.sub(PARTIAL, ".partial", path[len(ROOT):])
    seen[what] = seen.get(what, 0) + 1
    if "armed" in seen:
        kill("")
    elif not PLAN:
        with open(LOG, "a") as log:
            log.write(f"{time.monotonic()} {seen[what]} {what}\n")
    elif PLAN["event"] == what and PLAN["number"] == seen[what]:
        if PLAN["after"]:
            seen["armed"] = True  # it dies before it does the next thing, should it be faster now
            threading.Timer(PLAN["after"], kill, [""]).start()
        else:
            kill(arguments[0])

sys.addaudithook(watch)
"""


class Event(NamedTuple):
    """What an undisturbed process did to a file, for the how manieth time, and when, in seconds."""

    at: float
    number: int
    what: str


class Kill(NamedTuple):
    """One kill: of what command, where, and what the command was started on."""

    what: str  # one of WHAT
    command: Sequence[str]
    base: Path  # folder whose copy the command is run in
    undisturbed: Path  # the same after the undisturbed command
    plan: dict[str, Any]

    @property
    def moment(self) -> str:
        """Where it happens, for the table."""
        plan = self.plan
        event, path = plan["event"].split(" ", 1)
        verb = {"open": "open", "os.rename": "replace", "os.link": "link", "os.remove": "delete"}
        shown = f"{verb[event]} {Path(path).name} #{plan['number']}"
        if plan["half"]:
            shown += ", half of it written"
        if plan["after"]:
            shown = f"{plan['after']:.3f} s after {shown}"
        return shown + (f", {VICTIMS[plan['depth']]}" if self.what == "sweep" else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; the exit code is 1 if anything differed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="how many; default 30")
    parser.add_argument("--seed", type=int, default=0, help="which moments; default 0")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work, failed = REPOSITORY / ".benchmarks/kills", 0
    shutil.rmtree(work, ignore_errors=True)
    show("", "killed", "method", "moment", "exit codes", "the same in the end")
    show(*6 * ["---"])
    for number, kill in enumerate(planned(work, chosen.kills, Random(chosen.seed)), 1):
        folder = work / f"kill-{number}"
        codes, differing = carry_out(kill, folder)
        same = "yes" if not differing else f"NO: {', '.join(differing)[:300]}"
        method = next((each[7:] for each in kill.command if each.startswith("method=")), "")
        show(str(number), kill.what, method, kill.moment, f"{codes[0]}, {codes[1]}", same)
        failed += bool(differing)
        if not differing:
            shutil.rmtree(folder)
    sys.stdout.write(f"\n{chosen.kills - failed} of {chosen.kills} ended as if undisturbed\n")
    raise SystemExit(failed > 0)


def show(*cells: str) -> None:
    """Print a row of the table, which is Markdown."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def planned(work: Path, count: int, random: Random) -> Iterator[Kill]:
    """So many kills: of every method's training first, then of the others in turn."""
    empty, trained, reported = (work / each for each in ("empty", "trained", "reported"))
    empty.mkdir(parents=True)
    trained.mkdir()
    training = {each: undisturbed((*TRAIN, f"method={each}"), trained) for each in METHODS}
    suites = {name: (*EVALUATE, f"suite={name}", *more) for name, more in SUITES.items()}
    evaluations = {}
    for name, command in suites.items():
        shutil.copytree(trained, work / name)
        evaluations[name] = undisturbed(command, work / name)
    shutil.copytree(work / "strong", reported)
    reporting = undisturbed(REPORT, reported)
    for number in range(count):
        turn, what = number // len(WHAT[1:]), WHAT[1 + number % 4]
        if number < len(METHODS):
            turn, what = 0, "training"
        method = METHODS[number] if what == "training" else random.choice(METHODS)
        if what in ("training", "checkpoint"):
            command, places = (*TRAIN, f"method={method}"), (empty, trained)
            events = training[method]
        elif what == "sweep":
            methods = sorted(random.sample(METHODS, 2))
            command, places = (*SWEEP, f"method={','.join(methods)}"), (empty, trained)
            events = training[methods[0]]
        elif what == "evaluate":
            suite = list(SUITES)[turn % 2]
            command, places, events = suites[suite], (trained, work / suite), evaluations[suite]
        else:
            command, places, events = REPORT, (work / "strong", reported), reporting
        plan = a_moment(events, what, random) | {"depth": turn % 3 if what == "sweep" else 0}
        plan["half"] &= not plan["depth"]  # the others don't write the file
        yield Kill(what, command, *places, plan)


def a_moment(events: list[Event], what: str, random: Random) -> dict[str, Any]:
    """Where to kill: of a training at any moment after its first step, its test included.

    While a checkpoint is replaced, before anything that is done to its files; of the other commands
    either, of everything that they do.
    """
    if what in ("training", "checkpoint", "sweep"):
        events = [each for each in events if "/checkpoints/" in each.what]
    if what == "training" or (what != "checkpoint" and random.random() < 0.5):
        at = random.uniform(events[0].at, events[-1].at)
        event = max(each for each in events if each.at <= at)
        return _plan(event, after=at - event.at)
    event = random.choice(events)
    return _plan(event, half=event.what.startswith("os.rename") and random.random() < 0.5)


def _plan(event: Event, *, after: float = 0.0, half: bool = False) -> dict[str, Any]:
    return {"event": event.what, "number": event.number, "after": after, "half": half}


def carry_out(kill: Kill, folder: Path) -> tuple[tuple[int, int], list[str]]:
    """Kill and run again in ``folder``: the two exit codes, and what differs in the end."""
    shutil.copytree(kill.base, folder)
    codes = (run(kill.command, folder, kill.plan), run(kill.command, folder, None))
    found, wanted = outcome(folder), outcome(kill.undisturbed)
    if "method=" in kill.command[-1]:  # undisturbed, all of them were trained in one folder
        runs = [f"runs/digits/{each}-" for each in kill.command[-1][7:].split(",")]
        wanted = {key: each for key, each in wanted.items() if key.startswith(tuple(runs))}
    differing = [key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)]
    # A sweep outlives its jobs and their fork server, and says that they failed.
    expected = 1 if kill.what == "sweep" and kill.plan["depth"] < 2 else -9
    told = ["exit codes"] if codes != (expected, 0) else []
    return codes, told + sorted(differing)


def undisturbed(command: Sequence[str], folder: Path) -> list[Event]:
    """Run a command in a folder; what it did to files there."""
    log = folder.with_suffix(".events")
    log.unlink(missing_ok=True)
    assert run(command, folder, {}, log) == 0, (folder / "output").read_text()
    lines = (line.split(" ", 2) for line in log.read_text().splitlines())
    return [Event(float(at), int(number), what) for at, number, what in lines]


def run(
    command: Sequence[str], folder: Path, plan: dict[str, Any] | None, log: Path = Path()
) -> int:
    """Exit code of a command; without a ``plan`` nobody watches it."""
    process = FORKS.Process(target=become, args=(command, folder, plan, str(log)))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def become(command: Sequence[str], folder: Path, plan: dict[str, Any] | None, log: str) -> None:
    """Turn this process into ``python -m <command>`` in a folder, watched if there is a plan."""
    os.chdir(folder)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    module, *sys.argv[1:] = command
    sys.modules.pop(module, None)
    if plan is not None:
        watcher = folder.parent / "watcher"  # whose file every Python imports that a sweep starts
        watcher.mkdir(exist_ok=True)
        (watcher / "sitecustomize.py").write_text(WATCHER)
        os.environ["PYTHONPATH"] = f"{watcher}:{REPOSITORY}"
        os.environ |= {"KILL_PLAN": json.dumps(plan), "KILL_LOG": log}
        exec(WATCHER, {})
    runpy.run_module(module, run_name="__main__", alter_sys=True)


# Progress, what Hydra and a sweep note, and the lock of a run, which is of its process.
NO_RESULT = re.compile(r"output|.*/\.hydra/.*|.*/(status\.json|job\.log|\.lock)|.*multirun\.yaml")
# Of a record: what the run cost and when, and its hash over them.
COSTS = ("written", "wall_s", "epoch_s", "peak_memory_bytes", "sha256")


def outcome(folder: Path) -> dict[str, str]:
    """What a command left there, by path, as hashes of what must be equal."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {str(path.relative_to(folder)): path for path in paths}
    return {name: _content(path) for name, path in names.items() if not NO_RESULT.fullmatch(name)}


def _content(path: Path) -> str:
    if path.suffix == ".ckpt":
        saved = torch.load(path, weights_only=True)
        kept = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "metrics")
        return content_sha256({key: saved[key] for key in kept})
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        return content_sha256({key: record[key] for key in record.keys() - set(COSTS)})
    if path.suffix == ".npz":
        return content_sha256(read_arrays(path))
    return content_sha256(list(path.read_bytes()))


if __name__ == "__main__":
    main()
