"""The records that a run leaves, as JSON files: one schema, by which they are written and read.

A record that is read may come from anybody, so every field is checked: accuracies lie in [0, 1],
numbers are finite, texts are one printable line. Fields that this version does not know are
ignored, and configurations of older versions are given in today's keys.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import file_sha256, read_arrays, write_sealed_json
from lrm_lightning.runs.integrity import opened
from lrm_lightning.runs.intervals import wilson_interval

SCHEMA = 1
LONGEST_TEXT = 400
DATA_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "digits": "Digits",
    "arrays": "Images",
}
# Names of the classes in the order of the labels.
CLASS_NAMES = {
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    "cifar100": (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
        "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
        "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
        "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
        "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
        "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
        "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear",
        "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit",
        "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
        "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train",
        "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    ),
    "svhn": tuple("0123456789"),
    "digits": tuple("0123456789"),
}  # fmt: skip
# Keys of the optimiser in configurations of version 0.1, and the schedules' names of today.
OLD_SCHEDULE_KEYS = ("warmup_epochs", "milestones", "gamma")
OLD_SCHEDULES = {
    "step": ("step_drops", OLD_SCHEDULE_KEYS),
    "one_cycle": ("one_cycle", OLD_SCHEDULE_KEYS[:1]),
}


def one_line(text: str) -> str:
    """``text`` on one line, without control or direction characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def printable(text: str) -> str:
    """``text`` on one line, as by :func:`one_line`, at most 400 letters long."""
    clean = one_line(text)
    return clean if len(clean) <= LONGEST_TEXT else clean[: LONGEST_TEXT - 1] + "…"


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError("an interval must begin with its lower end")
    return interval


def _upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of version 0.1 in today's keys; one of today as it is."""
    optimizer = config.get("optimizer")
    if not isinstance(optimizer, dict) or optimizer.get("schedule") not in OLD_SCHEDULES:
        return config
    name, keys = OLD_SCHEDULES[optimizer["schedule"]]
    scheduler = {"name": name} | {key: optimizer[key] for key in keys if key in optimizer}
    gone = ("schedule", "_target_", *OLD_SCHEDULE_KEYS)
    kept = {key: value for key, value in optimizer.items() if key not in gone}
    upgraded = {key: value for key, value in config.items() if key != "engine"}
    return upgraded | {"optimizer": kept, "scheduler": scheduler}


Text = Annotated[str, AfterValidator(printable)]
Name = Annotated[str, AfterValidator(printable), Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Interval = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Settings = dict[Text, JsonValue]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Data(_Part):
    """Which images; equal fingerprints are the same bytes."""

    name: Name
    official: bool = False  # whether the bytes are those that everyone else has under this name
    fingerprint: Text = ""  # SHA-256 in hex over images and labels of training and test set
    note: Text = ""  # what a reader of a result must know about the data
    class_names: tuple[Text, ...] = ()  # of data whose names aren't in CLASS_NAMES
    n_train: Count | None = None
    n_val: Count | None = None
    n_test: Count | None = None

    @property
    def title(self) -> str:
        """Name as a table must show it: data that is not official says so."""
        title = DATA_TITLES.get(self.name, self.name)
        return title if self.official else f"{title} ({self.note or 'not the official bytes'})"


class Git(_Part):
    """Commit of the code, and whether it had uncommitted changes; ``None`` where unknown."""

    commit: Text | None = None
    dirty: bool | None = None


class Network(_Part):
    """The network that an evaluation attacked."""

    name: Name  # the method, or the name that the user gave
    label: Text = ""  # tells it from other networks of the name
    run_dir: Text = ""  # empty if it was not trained here, as run_id
    run_id: Text = ""
    checkpoint: Text = ""  # which of the run's weights
    weights_sha256: Text = ""  # see lrm_lightning.runs.networks.weights_sha256


class Curve(_Part):
    """Accuracy after each number of PGD steps."""

    steps: list[Count]
    accuracy: list[Share]

    @model_validator(mode="after")
    def _one_accuracy_a_step(self) -> Self:
        if len(self.steps) != len(self.accuracy) or not self.steps:
            raise ValueError("curve must have one accuracy a step")
        return self


class Histogram(_Part):
    """Distribution of logits: ``len(counts) + 1`` rising edges, and the logits' size."""

    variance: Number
    range: Number | None = None
    norm: Number | None = None
    edges: list[Number]
    counts: list[Annotated[Number, Field(ge=0)]]

    @model_validator(mode="after")
    def _edges_fit(self) -> Self:
        rising = all(low < high for low, high in pairwise(self.edges))
        if len(self.edges) != len(self.counts) + 1 or not rising or not sum(self.counts) > 0:
            raise ValueError("a histogram must have rising edges and a count between two of them")
        return self


class Sign(_Part):
    """One sign of gradient masking: whether it fired, and on what evidence."""

    name: Name
    fired: bool
    evidence: Settings = {}
    explanation: Text = ""
    source: Text = ""
    undecided: Text = ""  # why it could not be decided, or not by these images


class LossNote(_Part):
    """How many images PGD on the margin broke that PGD on cross-entropy left."""

    count: Count = 0
    of: Count = 0
    share: Share = 0.0
    interval: Interval | None = None
    explanation: Text = ""


class Masking(_Part):
    """The verdict, the signs it stands on, and what PGD on cross-entropy alone missed."""

    verdict: Name
    signs: list[Sign]
    loss: LossNote = LossNote()

    @property
    def summary(self) -> str:
        """How many signs fired, of how many that could be decided, and why not of the others."""
        could = [sign for sign in self.signs if not sign.undecided]
        reasons: dict[str, list[str]] = {}
        for sign in self.signs:
            if sign.undecided:
                reasons.setdefault(sign.undecided, []).append(sign.name.replace("_", " "))
        without = [f"{', '.join(names)} {reason}" for reason, names in reasons.items()]
        fired = sum(sign.fired for sign in could)
        return "; ".join([f"{fired} of {len(could)} signs that could be decided", *without])


class EpsCurve(_Part):
    """Accuracy by eps, each with its 95% Wilson interval, and whether a large one breaks all."""

    eps: list[Annotated[Number, Field(ge=0)]]
    accuracy: list[Share]
    intervals: list[Interval]
    large_eps: Sign

    @model_validator(mode="after")
    def _falls(self) -> Self:
        pairs = list(zip(pairwise(self.eps), pairwise(self.accuracy), strict=False))
        if not len(self.eps) == len(self.accuracy) == len(self.intervals) > 1:
            raise ValueError("eps_curve must have one accuracy and one interval an eps")
        if any(low >= high or here < there for (low, high), (here, there) in pairs):
            raise ValueError("along eps_curve eps must rise and the accuracy must not")
        return self


class Kept(_Part):
    """Attacked images in a file: that beside the record, or that which was given."""

    attack: Text = ""  # the accuracy whose images they are; empty if they were given
    file: Text = ""  # the file that was given
    sha256: Text = ""  # of that; the one beside the record is among its files
    accuracy: Share  # of the network on them
    distance: Annotated[Number, Field(ge=0)]  # the largest from an original, in the attack's norm


class AutoAttackNote(_Part):
    """What AutoAttack warned of, and SHA-256 in hex of the images it found."""

    flags: list[Text] = []
    x_adv_sha256: Text = ""


class Subset(_Part):
    """Which images of the split: at most ``n_images`` (``None``: all), drawn with ``seed``."""

    seed: Count | None = None
    n_images: Count | None = None


class Record(_Part):
    """What every record says: on which data, how many images, and where the numbers came from."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    written: Text = ""  # ISO 8601 with the offset of UTC
    data: Data
    split: Text = "test"
    n: Annotated[int, Field(ge=1)]  # number of images
    attack: Settings = {}
    code: dict[Text, Text] = {}  # of an evaluation: SHA-256 of the user's own modules in it
    wall_s: Annotated[Number, Field(ge=0)] | None = None
    versions: Settings = {}  # of Python and of each package that the numbers depend on
    git: Git = Git()
    hardware: Settings = {}
    files: dict[Name, Text] = {}  # SHA-256 in hex of files beside the record


class RunRecord(Record):
    """``record.json``: a finished run. Its presence says that the run is finished."""

    run_id: Text = ""  # the configuration's hash
    method: Name
    seed: Count | None = None
    training_attack: Settings = {}
    init_from: Settings = {}  # path, and SHA-256 of the file, of the weights that it started from
    checkpoint: Text = ""  # which weights were tested, "last" or "best"
    weights: dict[Text, Text] = {}  # by checkpoint, as ``Network.weights_sha256``
    metrics: dict[Text, Share]  # accuracies on the test images by attack
    intervals: dict[Text, Interval] = {}  # their 95% Wilson intervals
    test_metrics: dict[Text, Number] = {}  # everything logged in the test
    config: Annotated[dict[str, JsonValue], AfterValidator(_upgraded)] = {}  # resolved
    sources: dict[Text, Text] = {}  # SHA-256 of the modules that the configuration names
    epochs: Count | None = None
    global_step: Count | None = None  # the optimiser's steps
    # Mean over the epochs since the last start, validation included, without the test.
    epoch_s: Annotated[Number, Field(ge=0)] | None = None
    peak_memory_bytes: Count | None = None  # of a GPU, else of the process; of rank 0
    score: Share | None = None  # robust validation accuracy after training, for sweepers
    val_metrics: dict[Text, Number] = {}  # everything logged in the last attacked validation


class EvaluationRecord(Record):
    """``evaluations/<suite>-<evaluation_id>.json``: what a suite found of one network.

    Its verdicts lie beside it. Version 0.1 named the file after the suite alone.

    Suite ``paper`` has ``curve`` and ``logits``; suite ``strong`` has ``settings`` of each attack,
    ``autoattack`` and ``masking``; suite ``eps_curve`` has ``eps_curve``; suite ``kept_images`` has
    ``kept``, as others that kept images.
    """

    kind: Literal["whitebox"]
    suite: Name
    evaluation_id: Text = ""  # hash of what determines the result
    network: Network = Field(alias="model")
    overrides: list[str] = []  # of evaluate, that make this record alone again
    subset: Subset = Subset()
    batch_size: Count | None = None
    engine: Text = ""  # how PGD was computed
    metrics: dict[Text, Share]  # accuracies by attack
    intervals: dict[Text, Interval] = {}  # their 95% Wilson intervals
    spread: dict[Text, Share] = {}  # of a random network: standard deviation over its passes
    curve: Curve | None = None
    logits: dict[Literal["clean", "adversarial"], Histogram] = {}  # of all logits on such images
    settings: Settings = {}
    autoattack: AutoAttackNote | None = None
    masking: Masking | None = None
    eps_curve: EpsCurve | None = None
    kept: Kept | None = None
    impossible: dict[Text, Text] = {}  # attacks that the network does not allow, and why


class TransferRecord(Record):
    """``transfer-<evaluation_id>.json``: accuracy of each target on the images of each source.

    Matrices have a row a target and an entry a source.
    """

    kind: Literal["blackbox"]
    evaluation_id: Text = ""  # hash of what determines the result
    sources: list[Network]  # networks that the images were made on
    targets: list[Network]
    overrides: list[str] = []  # of transfer, that make this record again
    subset: Subset = Subset()
    engine: Text = ""  # how PGD was computed
    accuracy: list[list[Share]]
    intervals: list[list[Interval]]  # 95% Wilson intervals
    same_network: list[list[bool]]  # where source and target are one network

    @model_validator(mode="after")
    def _matrices_fit(self) -> Self:
        shape = [len(self.sources)] * len(self.targets)
        for name in ("accuracy", "intervals", "same_network"):
            if [len(row) for row in getattr(self, name)] != shape:
                raise ValueError(f"{name} must have one row a target and one entry a source")
        return self


R = TypeVar("R", RunRecord, EvaluationRecord, TransferRecord)


def accuracies(correct: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """``n``, ``metrics`` and ``intervals`` (95%) of a record, by attack, each in [0, 1].

    ``correct`` are an attack's verdicts, bool ``(n,)``: which images are classified correctly. Of a
    random network they are ``(n, passes)``; then the mean counts, and ``spread`` has the standard
    deviation of the passes' accuracies.
    """
    (n,) = {len(each) for each in correct.values()}
    metrics = {name: float(each.mean()) for name, each in correct.items()}
    intervals = {
        name: list(wilson_interval(round(share * n), n)) for name, share in metrics.items()
    }
    passes = {name: each.mean(axis=0) for name, each in correct.items() if each.ndim == 2}
    spread = {name: float(each.std(ddof=1)) for name, each in passes.items()}
    found = {"n": n, "metrics": metrics, "intervals": intervals}
    return found | ({"spread": spread} if spread else {})


def write_record(path: Path, record: Record) -> None:
    """Replace ``path`` by the record in one step; fields that were not given are left out."""
    content = record.model_dump(mode="json", exclude_unset=True)
    write_sealed_json(path, {"schema": SCHEMA} | content)


def read_record(path: Path, kind: type[R]) -> R:
    """The record at ``path``, which must be one of this kind.

    Raises:
        FileNotFoundError: If there is no file.
        UserError: If it can't be read, is not such a record, or has changed since it was written;
            one line that names the field.
    """
    try:
        content = path.read_bytes()
        record = kind.model_validate_json(content, strict=True)
        opened(json.loads(content))
    except FileNotFoundError:
        raise
    except ValueError as error:
        why = explained(error) if isinstance(error, ValidationError) else printable(str(error))
        raise UserError(f"{path} is no {kind.__name__} of this version ({why})") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    return record


def explained(error: ValidationError) -> str:
    """The first field that is wrong, and why, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return printable(f"{where}: {first['msg']}" if where else first["msg"])


def check_file(path: Path, record: Record) -> None:
    """Whether a file beside a record is the one that the record was written with.

    Raises:
        FileNotFoundError: If there is no file.
        UserError: If it is another; records of older versions can't tell.
    """
    found = file_sha256(path)
    if record.files and record.files.get(path.name) != found:
        raise UserError(f"{path} has changed since its record was written")


def read_verdicts(
    path: Path, record: RunRecord | EvaluationRecord | TransferRecord
) -> dict[str, np.ndarray]:
    """Arrays of the ``.npz`` beside a record: those that its accuracies were counted from.

    Raises:
        FileNotFoundError: If there is no file.
        UserError: If it is damaged or another record's.
    """
    check_file(path, record)
    try:
        arrays = read_arrays(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    matrix = isinstance(record, TransferRecord)
    for name, shares in ({"correct": record.accuracy} if matrix else record.metrics).items():
        correct = arrays.get(name)
        if correct is None:  # records of older versions may have none
            continue
        fits = correct.dtype == bool and correct.shape == (*np.shape(shares), record.n)
        if not (fits and np.allclose(correct.mean(axis=-1), shares, rtol=0, atol=1e-9)):
            raise UserError(f"{path}: its verdicts on {name} are not those of the record")
    return arrays
