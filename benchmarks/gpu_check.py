"""Does all of it work on this machine's GPU, and which engine is the fastest: ``make gpu-check``.

It needs no network, and ends with one table and one verdict. Without a GPU it compares the engines
on the processor and says what it leaves out.
"""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.subject import ATTACK, QUICK, Settings, Subject, prepare, training_batch
from benchmarks.timing import interleaved
from benchmarks.training_step import training_pass
from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import Batch
from lrm_lightning.methods import PGDTraining
from lrm_lightning.runs.identity import conf_dir
from lrm_lightning.training import build

# Largest share by which the loss of a method may differ between two engines. In bfloat16 both are
# off by percents.
TOLERANCE = {"double": 1e-9, "float32": 1e-3, "bf16": 0.05}
METHODS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
MODELS = ("resnet_simple", "preact_resnet18")
ENGINES = ("reference", "fast", "compile")
LAYOUTS = {"": torch.channels_last, ", NCHW": torch.contiguous_format}
FASTER = 1.05  # times as fast as plain, on every network, to be what auto is
ROUNDS, BATCH = 5, 128
LAST_START_S = 420.0  # after so many seconds no further network is compiled
TRAINING = (
    "data=digits", "data.batch_size=64", "model=resnet_tiny", "logger=csv", "trainer=gpu",
    "trainer.deterministic=warn", "trainer.max_epochs=4", "scheduler.warmup_epochs=0",
    "attack.steps=3", "robust_accuracy.n_images=40", "robust_accuracy.test_n_images=40",
    "checkpoint.every_minutes=1e-9",
)  # fmt: skip


class Row(NamedTuple):
    """A line of the table."""

    what: str
    found: str
    ok: bool | None = None  # None: left out, or a measurement that nothing is expected of


class CheckError(Exception):
    """A check found something wrong; the message says what."""


def main() -> None:
    """Entry point; the exit code is 1 if a check failed."""
    warnings.simplefilter("ignore")  # of torch.compile
    device = "cuda" if torch.cuda.is_available() else "cpu"
    begin = time.monotonic()
    if device == "cpu":
        print("there is no GPU here: only the engines are compared, on the processor", flush=True)  # noqa: T201
    subject = prepare(Settings(**QUICK, device=device))
    rows = [*compared(subject, device)]
    verdict = "there is no GPU here; on a processor attack.engine=auto is fast"
    if device == "cpu":
        left_out = ("tests marked gpu", "engine compile", *(f"times of {each}" for each in MODELS))
        left_out += ("a sweep of three on one GPU", "SIGTERM and resume")
        rows += [Row(each, "left out: no GPU") for each in left_out]
    else:
        rows += [Row("the GPU", torch.cuda.get_device_name(0))]
        commands = {
            "tests marked gpu": gpu_tests,
            "a sweep of three on one GPU": sweep,
            "SIGTERM, resume": resume,
        }
        with ThreadPoolExecutor() as pool:  # they mostly wait for processes to start
            whole = pool.map(checked, commands, commands.values())
            through = [*compiled(subject, device)]
        rows += [*whole, *through]
        wrong = {
            engine for engine in ENGINES for row in rows if row.ok is False and engine in row.what
        }
        times, timed = step_times(device, deadline=begin + LAST_START_S)
        rows += timed
        verdict = f"attack.engine=auto should be {chosen(times, wrong)} on this GPU"
    console, table = Console(width=110), Table(box=None, pad_edge=False)
    for heading in ("check", "found", ""):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.what, row.found, {True: "ok", False: "FAILED", None: ""}[row.ok])
    console.print(table)
    failed = sum(row.ok is False for row in rows)
    console.print(f"{failed} of {len(rows)} checks failed, {time.monotonic() - begin:.0f} s")
    console.print(f"verdict: {verdict}", highlight=False)
    raise SystemExit(failed > 0)


def checked(what: str, check: Callable[[], str]) -> Row:
    """The row of a check that says what it found, or raises whatever it can on an unknown GPU."""
    try:
        return Row(what, check(), ok=True)
    except Exception as failure:
        return Row(what, " ".join(str(failure).split())[-300:], ok=False)


# ---------------------------------------------------------------------- the same numbers


def compared(subject: Subject, device: str) -> Iterator[Row]:
    """The loss of every method whose attack is plain and fast, in each precision."""
    for precision, tolerance in TOLERANCE.items():
        worst = {}
        for method in METHODS:
            plain, fast = (loss(subject, method, each, precision, device) for each in ENGINES[:2])
            worst[method] = abs(fast - plain) / abs(plain)
        name = max(worst, key=worst.__getitem__)
        found = f"{len(METHODS)} methods, losses differ by at most {worst[name]:.1e} ({name})"
        yield Row(f"plain and fast, {precision}", found, worst[name] <= tolerance)


def loss(subject: Subject, method: str, engine: str, precision: str, device: str) -> float:
    """Loss of a method on one batch of the digits."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", [f"method={method}", "data=digits", f"attack.engine={engine}"])
    defense = build.build_defense(cfg, copy.deepcopy(subject.network), num_classes=10)
    defense.train().to(device)
    batch = training_batch(defense.mixing, Settings(**QUICK, device=device))
    with precisely(precision, device):
        defense, batch = cast(precision, defense, batch)
        return float(torch.stack(list(defense.loss_terms(batch).values())).sum().detach())


def compiled(subject: Subject, device: str) -> Iterator[Row]:
    """The images that PGD finds through torch.compile, beside those of the plain network."""
    plain, through = (
        PGDAttack(random_start=False, engine=each) for each in ("reference", "compile")
    )
    for precision in TOLERANCE:

        def compare(precision: str = precision) -> str:
            with precisely(precision, device):
                network, x = cast(precision, copy.deepcopy(subject.network), subject.x)
                pair = [attack(network, x, subject.y) for attack in (plain, through)]
            moved = float(((pair[0] - pair[1]).abs() > ATTACK.eps / 100).float().mean())
            # Rounding decides the sign of gradients near 0; in bfloat16 of many.
            if moved > {"double": 0.0, "float32": 0.02, "bf16": 0.5}[precision]:
                raise CheckError(f"{moved:.2%} of the pixels differ")
            return f"{moved:.2%} of the pixels differ"

        yield checked(f"plain and compile, {precision}", compare)


def cast(precision: str, module: Any, data: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """A module and a batch or images in that precision, of which autocast makes bfloat16 itself."""
    if precision != "double":
        return module, data
    if isinstance(data, Tensor):
        return module.double(), data.double()
    return module.double(), data._replace(x=data.x.double(), targets=data.targets.double())


@contextmanager
def precisely(precision: str, device: str) -> Iterator[None]:
    """Without TF32, and under autocast for ``"bf16"``."""
    with tf32(on=False), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextmanager
def tf32(*, on: bool) -> Iterator[None]:
    """Whether convolutions and matrix products of a GPU may use TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=on):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---------------------------------------------------------------------- how fast


def step_times(device: str, *, deadline: float) -> tuple[dict[str, dict[str, float]], list[Row]]:
    """Median seconds of a training step on PGD-10 by network and way to compute it.

    Without TF32 and channels-last the names are those of the engines alone.
    """
    times: dict[str, dict[str, float]] = {}
    rows = []
    for model in MODELS:
        if time.monotonic() > deadline:
            rows.append(Row(f"times of {model}", "left out: no time", ok=False))
            continue
        settings = Settings(model=model, device=device, batch=BATCH, images=BATCH, pretraining=5)
        subject = prepare(settings)
        ways = {
            engine + order + products: step(subject, engine, layout, tf32_on=bool(products))
            for engine in ENGINES
            for order, layout in LAYOUTS.items()
            for products in ("", ", TF32")
            if engine == ENGINES[0] or not order  # the others are timed in channels-last alone
        }
        for name in list(ways):  # compiles, and lets cuDNN choose
            warm = checked(f"PGD-10 step, {model}, {name}", lambda way=ways[name]: f"{way()}")
            if not warm.ok:
                rows.append(warm)
                del ways[name]
        seconds, _ = interleaved(ways, ROUNDS, device)
        times[model] = {name: median(each) for name, each in seconds.items()}
        plain = times[model][ENGINES[0]]
        for name, each in times[model].items():
            found = f"{1000 * each:.1f} ms, {plain / each:.2f} times as fast as plain"
            rows.append(Row(f"PGD-10 step, {model}, {name}", found))
    return times, rows


def step(
    subject: Subject, engine: str, layout: torch.memory_format, *, tf32_on: bool
) -> Callable[[], float]:
    """A training step of PGD training."""
    defense = PGDTraining(copy.deepcopy(subject.network), attack=PGDAttack(engine=engine))
    defense.network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    batch: Batch = subject.batches["none"]
    run = training_pass(defense, batch._replace(x=batch.x.contiguous(memory_format=layout)))

    def way() -> float:
        with tf32(on=tf32_on):
            return run()

    return way


def chosen(times: dict[str, dict[str, float]], wrong: set[str]) -> str:
    """The engine that is clearly faster than the plain one on every network, or the plain one."""
    gains = {
        engine: min(each[ENGINES[0]] / each.get(engine, math.inf) for each in times.values())
        for engine in ENGINES[1:]
        if times and engine not in wrong
    }
    best = max(gains, key=gains.__getitem__, default=ENGINES[0])
    return best if gains.get(best, 0.0) >= FASTER else ENGINES[0]


# ---------------------------------------------------------------------- whole commands


def command(*arguments: str) -> list[str]:
    """``python -m lrm_lightning.train`` with a training of seconds."""
    return [sys.executable, "-m", "lrm_lightning.train", *arguments, *TRAINING]


def finish(arguments: list[str], folder: str) -> str:
    """What a command has printed that must end well."""
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    done = subprocess.run(
        arguments, env=environment, cwd=folder, capture_output=True, text=True, timeout=240
    )
    if done.returncode:
        raise CheckError(done.stdout + done.stderr)
    return done.stdout


def gpu_tests() -> str:
    """The tests that need a GPU."""
    root = str(Path(__file__).parents[1])
    return finish([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], root).splitlines()[-1]


def sweep() -> str:
    """Three jobs side by side on the first GPU, each recorded as trained there."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ("hydra.launcher.gpus=1", "hydra.launcher.jobs_per_gpu=3")
        finish([*command("-m", "method=alp,pgd,lrm", *launcher)], folder)
        found = [json.loads(path.read_text()) for path in Path(folder).glob("runs/*/*/record.json")]
    devices = [record["hardware"]["device"] for record in found]
    if devices != ["cuda"] * 3:
        raise CheckError(f"trained on {devices}")
    return "3 jobs done on the GPU"


def resume() -> str:
    """A run that SIGTERM ends, and that goes on, beside an undisturbed one."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command("method=pgd"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if list(Path(folder).glob("runs/*/*/checkpoints/interrupted.ckpt")):
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.05)
        code = process.wait(120)
        if code != 128 + signal.SIGTERM:
            raise CheckError(f"exit code {code} after SIGTERM")
        if "resumed at step" not in finish(command("method=pgd"), folder):
            raise CheckError("it began anew instead of going on")
        finish(command("method=pgd", "runs_dir=undisturbed"), folder)
        paths = sorted(Path(folder).glob("*/*/*/checkpoints/last.ckpt"))
        one, two = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
        apart = max(float((one[key].double() - two[key].double()).abs().max()) for key in one)
    return f"goes on; weights differ from an undisturbed run's by at most {apart:.1e}"


if __name__ == "__main__":
    main()
