"""What is measured and at which size: the command line as one value."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.runs.identity import conf_dir

LINES = (1, 2, 3, 4, 5, 6, 7)
TEST_IMAGES = 360  # of the embedded digits


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the measurements; the defaults take about twenty minutes on two quiet cores.

    Attributes:
        lines: Which of the seven are measured.
        rounds: Interleaved rounds, of which medians are taken.
        images: Images of line 2; lines 3 and 4 take a quarter of them.
        batch: Images that a network sees at a time.
        device: Where.
        model: A file of ``conf/model``.
        out: Where the JSON goes.
        threads: Of torch, and cores of what is started from here.
        pretraining: Training steps before anything is measured, so that accuracies mean something.
        pretraining_lr: Adam's rate in them.
        curve_steps: Length of the step curve, and of the long attack whose memory is measured.
        apgd_steps: Iterations of AutoAttack's first attack.
        trainer_steps: Training steps of line 5.
        runs: Runs of the sweep.
        repeats: Of each convolution and of each point of the growth, of which the best counts.
        growth_images: Images of the smallest point of the growth.
    """

    lines: tuple[int, ...] = LINES
    rounds: int = 3
    images: int = 128
    batch: int = 128
    device: str = "cpu"
    model: str = "resnet_simple"
    out: Path = Path(".benchmarks/bench.json")
    threads: int = 1
    pretraining: int = 60
    pretraining_lr: float = 3e-3
    curve_steps: int = 200
    apgd_steps: int = 100
    trainer_steps: int = 32
    runs: int = 8
    repeats: int = 3
    growth_images: int = 32

    @property
    def attack(self) -> PGDAttack:
        """The paper's training attack: eps 0.03, ten steps of 0.0078."""
        return PGDAttack()

    @property
    def fewer_images(self) -> int:
        """Images of the long attacks."""
        return max(8, self.images // 4)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the JSON."""
        return asdict(self) | {"out": str(self.out), "attack": self.attack.as_dict()}


QUICK = {
    "rounds": 1,
    "images": 32,
    "batch": 32,
    "model": "resnet_tiny",
    "pretraining": 60,
    "pretraining_lr": 1e-2,  # a smaller network takes larger steps
    "curve_steps": 20,
    "apgd_steps": 3,
    "trainer_steps": 2,
    "runs": 2,
    "repeats": 1,
    "growth_images": 16,
}


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Settings of a command line; exits with one line where it is wrong."""
    default = Settings()
    models = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--lines", type=_lines, help="e.g. 1,2; all by default")
    parser.add_argument("--rounds", type=_positive, help=f"default {default.rounds}")
    parser.add_argument("--images", type=_images, help=f"of line 2, default {default.images}")
    parser.add_argument("--batch", type=_positive, help=f"default {default.batch}")
    parser.add_argument("--device", help="cpu or cuda; default cpu")
    parser.add_argument(
        "--model",
        choices=models,
        metavar="NAME",
        help=f"a file of conf/model; default {default.model}",
    )
    parser.add_argument("--out", type=Path, help=f"default {default.out}")
    parser.add_argument("--threads", type=_positive, help="default: as torch chooses")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    chosen = vars(parser.parse_args(arguments))
    quick = chosen.pop("quick")
    given = {name: value for name, value in chosen.items() if value is not None}
    sizes: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        **(QUICK if quick else {}),
        **given,
    }
    if sizes.get("device", "cpu") != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {sizes['device']}: there is no CUDA device")
    return Settings(**sizes)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def _images(text: str) -> int:
    number = _positive(text)
    if number > TEST_IMAGES:
        raise argparse.ArgumentTypeError(f"{number}: there are {TEST_IMAGES} test images")
    return number


def _lines(text: str) -> tuple[int, ...]:
    numbers = tuple(int(each) for each in text.split(","))
    if not set(numbers) <= set(LINES):
        raise argparse.ArgumentTypeError(f"{text}: lines are {LINES[0]} to {LINES[-1]}")
    return numbers
