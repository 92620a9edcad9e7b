"""Measure, print tables of ratios, write JSON: ``python -m benchmarks --help``."""

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import peers
from benchmarks.attacks import step_curve, table_row
from benchmarks.same_work import DifferentWorkError
from benchmarks.subject import QUICK, Settings, Subject, admit, prepare
from benchmarks.timing import Result, about
from benchmarks.training_step import training_step
from lrm_lightning.cli import keep_freed_memory
from lrm_lightning.runs.files import write_json
from lrm_lightning.runs.identity import conf_dir

BENCHMARKS: dict[str, Callable[[Subject, Settings], list[Result]]] = {
    "training-step": training_step,
    "table-row": table_row,
    "step-curve": step_curve,
}
TEST_IMAGES = 360  # of the embedded digits


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ``arguments`` are those of the command line."""
    names, settings = parse(arguments)
    torch.set_num_threads(settings.threads)
    keep_freed_memory()  # as our commands do; else who frees memory decides how long others take
    warnings.simplefilter("ignore")  # of peers, older than the torch they run on
    console = Console(width=100)
    head = about("benchmarks", settings.device) | {"settings": settings.as_dict()}
    head["versions"] |= peers.versions()
    console.print(
        f"{settings.model}, batch {settings.batch}, {settings.rounds} rounds, "
        f"{head['hardware']['name']}, {settings.threads} threads, commit {head['git']['commit']}"
    )
    for name in peers.PEERS.keys() - peers.installed().keys():
        console.print(f"{name} is not installed and left out; make bench installs it")
    subject = prepare(settings)
    refused = admit(subject, settings)
    for name, why in refused.items():
        console.print(f"{name} is left out, because it does different work: {why}")
    subject = subject._replace(peers=[name for name in subject.peers if name not in refused])
    found: dict[str, Any] = {}
    failed = False
    for name in names:
        try:
            results = BENCHMARKS[name](subject, settings)
        except DifferentWorkError as difference:
            failed = True
            console.print(f"{name} compares nothing: {difference}")
            continue
        for result in results:
            result.show(console)
        found[name] = [result.as_dict() for result in results]
        # After every benchmark: what an interrupted command has measured is kept.
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(settings.out, head | {"refused": refused, "benchmarks": found})
    console.print(f"written to {settings.out}")
    if failed:
        raise SystemExit(1)


def parse(arguments: Sequence[str] | None = None) -> tuple[list[str], Settings]:
    """Benchmarks and sizes of a command line; exits with one line where it is wrong."""
    default = Settings()
    models = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, argument_default=argparse.SUPPRESS
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--rounds", type=_positive, help=f"default {default.rounds}")
    parser.add_argument("--images", type=_positive, help=f"of table-row, default {default.images}")
    parser.add_argument("--batch", type=_positive, help=f"default {default.batch}")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default cpu")
    parser.add_argument("--model", choices=models, metavar="MODEL", help="a file of conf/model")
    parser.add_argument("--out", type=Path, help=f"default {default.out}")
    parser.add_argument("--threads", type=_positive, help="default: as torch chooses")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    given = vars(parser.parse_args(arguments))
    names, quick = given.pop("names", []), given.pop("quick", False)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"{unknown[0]} is unknown; choose of {', '.join(BENCHMARKS)}")
    if given.get("images", 1) > TEST_IMAGES:
        parser.error(f"--images {given['images']}: there are {TEST_IMAGES} test images")
    if given.get("device") == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device")
    sizes = {"threads": torch.get_num_threads(), **(QUICK if quick else {}), **given}
    return names or list(BENCHMARKS), Settings(**sizes)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


if __name__ == "__main__":
    main()
