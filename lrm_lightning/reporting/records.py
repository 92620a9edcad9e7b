"""The records as typed values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNOFFICIAL = "not the official bytes"
DATA_TITLES = {"cifar10": "CIFAR-10", "digits": "Digits"}

Accuracies = Mapping[str, float]
Intervals = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Data:
    """Which images; equal values are the same images."""

    name: str
    official: bool
    fingerprint: str
    note: str

    @property
    def title(self) -> str:
        """Name as a table must show it: what isn't official says so."""
        title = DATA_TITLES.get(self.name, self.name)
        return title if self.official else f"{title} ({self.note or UNOFFICIAL})"


@dataclass(frozen=True)
class Origin:
    """Where and when a number was made; ``None`` and empty: the record doesn't say."""

    written: str
    wall_s: float | None
    commit: str
    dirty: bool | None
    hardware: Mapping[str, Any]
    versions: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run's ``record.json``.

    Attributes:
        path: The file.
        config: The resolved configuration.
        metrics: Accuracies in [0, 1] on ``n`` test images.
        test_metrics: Everything logged in the test.
        overrides: The command line's, if the run directory still has them.
    """

    path: Path
    method: str
    run_id: str
    seed: int | None
    data: Data
    n: int
    metrics: Accuracies
    intervals: Intervals
    attack: Mapping[str, Any]
    config: Mapping[str, Any]
    test_metrics: Mapping[str, Any]
    checkpoint: str
    epochs: int | None
    origin: Origin
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.path.parent


@dataclass(frozen=True)
class Model:
    """The network that an evaluation attacked, as the evaluation names it."""

    name: str
    label: str
    run_dir: str
    run_id: str
    checkpoint: str
    weights: str


@dataclass(frozen=True)
class Evaluation:
    """One ``evaluations/<suite>.json``.

    Attributes:
        path: The file; its images lie beside it in an ``.npz``.
        subset_seed: Which images of the test split.
        curve: Accuracy in [0, 1] by number of PGD steps.
        logits: ``clean`` and ``adversarial`` histograms of all logits.
        masking: The verdict on gradient masking, of the strong suite.
    """

    path: Path
    suite: str
    model: Model
    data: Data
    n: int
    subset_seed: int | None
    metrics: Accuracies
    intervals: Intervals
    attack: Mapping[str, Any]
    origin: Origin
    curve: "Curve | None" = None
    logits: Mapping[str, "Histogram"] = field(default_factory=dict)
    masking: "Masking | None" = None


@dataclass(frozen=True)
class Curve:
    """Accuracy in [0, 1] after each number of PGD steps."""

    steps: tuple[int, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """Distribution of logits: ``len(counts) + 1`` rising edges."""

    variance: float
    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True)
class Sign:
    """One sign of gradient masking: whether it fired, and on what evidence."""

    name: str
    fired: bool
    evidence: Mapping[str, Any]
    explanation: str
    source: str


@dataclass(frozen=True)
class Masking:
    """The verdict, the signs it stands on, and what PGD on cross-entropy alone missed."""

    verdict: str
    signs: tuple[Sign, ...]
    loss: str = ""


@dataclass(frozen=True)
class Transfer:
    """One ``transfer.json``: ``accuracy[target][source]`` in [0, 1]."""

    path: Path
    sources: tuple[Model, ...]
    targets: tuple[Model, ...]
    data: Data
    n: int
    subset_seed: int | None
    accuracy: tuple[tuple[float, ...], ...]
    intervals: tuple[tuple[tuple[float, float] | None, ...], ...]
    attack: Mapping[str, Any]
    origin: Origin
