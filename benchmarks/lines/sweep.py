"""Line 6: a sweep of short runs through our launcher against the same runs one after another."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.result import Result
from benchmarks.same_work import DifferentWorkError
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved

TRAIN = (sys.executable, "-m", "lrm_lightning.train")
# A run of seconds, nearly all of it start-up: what a sweep of small runs is made of.
SHORT = (
    "experiment=demo",
    "method=pgd",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=10",
    "robust_accuracy.test_n_images=20",
    "robust_accuracy.test_steps=[2]",
    "robust_accuracy.steps=[2]",
)
SAME = 0.1  # in accuracy on 50 images: threads add up in another order


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """The launcher shares out the cores; a command alone has all of them."""
    seeds = range(settings.runs)
    common = (*SHORT, f"trainer={'cpu' if settings.device == 'cpu' else 'gpu'}")

    def swept() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            listed = f"seed={','.join(map(str, seeds))}"
            cores = f"hydra.launcher.cores={settings.threads}"
            _run(settings, "-m", *common, listed, cores, f"runs_dir={folder}")
            return _scores(Path(folder))

    def in_turn() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            for seed in seeds:
                _run(settings, *common, f"seed={seed}", f"runs_dir={folder}")
            return _scores(Path(folder))

    contestants = {"launcher": swept, "separate commands": in_turn}
    # Half the rounds: a minute each, and long enough to tell.
    seconds, scores = interleaved(contestants, max(1, settings.rounds // 2))
    for ours, theirs in zip(scores["launcher"], scores["separate commands"], strict=True):
        if abs(ours - theirs) > SAME:
            raise DifferentWorkError(f"the runs of a sweep end elsewhere: {scores}")
    return [Result(f"sweep of {len(seeds)} short runs", seconds, details={"scores": scores})]


def _run(settings: Settings, *arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    subprocess.run([*TRAIN, *arguments], env=environment, check=True, capture_output=True)


def _scores(folder: Path) -> list[float]:
    """Each run's robust accuracy, by seed."""
    records = [json.loads(path.read_text()) for path in folder.rglob("record.json")]
    return [float(record["score"]) for record in sorted(records, key=lambda each: each["seed"])]
