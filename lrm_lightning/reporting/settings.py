"""What was set in a run, and what of it tells it from another run, or from the paper's."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lrm_lightning.evaluation.metrics import is_number
from lrm_lightning.reporting import paper
from lrm_lightning.runs.identity import flat, identifying, numeric
from lrm_lightning.runs.records import printable

Settings = Mapping[str, Any]
# What is measured after training, or how it is watched, doesn't make another training.
NOT_OF_TRAINING = (
    "seed", "robust_accuracy", "checkpoint.monitor", "method._target_", "method.epochs",
)  # fmt: skip
# Knobs that older records lack, off.
NEUTRAL = {"method.awp": 0.0, "method.input_noise": 0.0}
NAMED_AT_MOST = 4
CALLBACK = re.compile(r"callbacks\.[^.]+\._target_")
# Settings of the Trainer that cut a training short, and the values that don't: 1.0 is all batches,
# 1 is one.
LIMITS = {"limit_train_batches": ["1.0"], "overfit_batches": ["0", "0.0"], "max_steps": ["-1"]}


def training_settings(config: Settings) -> dict[str, Any]:
    """What determines a training but for its seed: flat, such as ``{"method.alpha": 0.0}``."""
    ignored = tuple(f"{each}." for each in NOT_OF_TRAINING)
    found = {
        key: value
        for key, value in flat(numeric(identifying(config))).items()
        if value != {} and not f"{key}.".startswith(ignored)
    }
    return NEUTRAL | found if found else {}


def paper_row(method: str, settings: Settings) -> paper.Method | None:
    """The paper's row that a run is; ``None`` of another defence, or if it was cut short."""
    row = paper.METHODS.get(method)
    if row is None or not settings or limits(settings):
        return None
    knobs = row.knobs.items()
    fits = all(shown(settings.get(f"method.{key}")) == shown(value) for key, value in knobs)
    return row if fits else None


def differences(all_settings: Sequence[Settings]) -> list[dict[str, Any]]:
    """For each of several runs, the settings in which not all agree: the method's own first."""
    keys = {key for settings in all_settings for key in settings}
    differing = [key for key in keys if len({shown(each.get(key)) for each in all_settings}) > 1]
    differing.sort(key=lambda key: (not key.startswith("method."), key))
    return [{key: each.get(key) for key in differing} for each in all_settings]


def telling(all_settings: Sequence[Settings]) -> list[dict[str, Any]]:
    """For each of several runs, in what it differs from most of them: rare and short ones first.

    A callback that some runs lack is one difference, whose value is empty where it is there.
    """
    found = differences(all_settings)
    columns = {key: [each[key] for each in found] for key in next(iter(found), {})}
    for key in [each for each in columns if CALLBACK.fullmatch(each) and None in columns[each]]:
        callback = key.removesuffix("._target_")
        there = [None if each is None else "" for each in columns[key]]
        columns = {
            key: values
            for key, values in columns.items()
            if not key.startswith(f"{callback}.") or len({*map(shown, values)} - {"null"}) > 1
        } | {callback: there}
    ranked: list[list[tuple[int, int, str]]] = [[] for _ in found]
    for key, values in columns.items():
        counts = Counter(map(shown, values))
        usual = next((text for text in counts if 2 * counts[text] > len(values)), "null")
        for ranks, value in zip(ranked, values, strict=True):
            if (text := shown(value)) != usual:
                ranks.append((counts[text], len(summary({key: value})), key))
    return [
        {key: columns[key][place] for *_, key in sorted(ranks)}
        for place, ranks in enumerate(ranked)
    ]


def summary(settings: Settings, at_most: int = NAMED_AT_MOST) -> str:
    """A few settings as a label, such as ``smoothing=0.1, callbacks.ema, and 2 more``."""
    named = [
        f"{printable(key).removeprefix('method.')}={shown(value)}".removesuffix("=")
        for key, value in settings.items()
    ]
    more = len(named) - at_most
    return ", ".join(named[:at_most]) + (f", and {more} more" if more > 0 else "")


def departures(method: str, settings: Settings) -> list[str]:
    """In what a run's recipe is not section 5.1's, such as ``network depth 1 (paper 5)``."""
    recipe, row = dict(paper.RECIPE), paper.METHODS.get(method)
    if row is not None:
        recipe["trainer.max_epochs"] = row.epochs
    if settings.get("model._target_") != recipe["model._target_"]:
        del recipe["model.depth"], recipe["model.widths"]
    if row is not None and "alpha" not in row.knobs:
        # Trained on clean images: the attack is the evaluation's alone.
        recipe = {key: each for key, each in recipe.items() if not key.startswith("attack.")}
    decay = settings.get("callbacks.ema.decay")
    callbacks = [] if decay is None else [f"average of the weights, decay {shown(decay)}"]
    named = [key.split(".")[1] for key in settings if CALLBACK.fullmatch(key)]
    callbacks += [f"callback {printable(name)}" for name in named if name != "ema"]
    return unlike(settings, recipe) + callbacks


def unlike(settings: Settings, wanted: Settings) -> list[str]:
    """In what settings are not those wanted, such as ``step size 0.015 (paper 0.0078)``."""
    return [
        _departure(key, settings[key], value)
        for key, value in wanted.items()
        if key in settings and shown(settings[key]) != shown(value)
    ]


def limits(settings: Settings) -> list[str]:
    """What cut a training short of its epochs, such as ``limit_train_batches 1``: a debug run."""
    found = {key: settings.get(f"trainer.{key}") for key in LIMITS}
    return [
        f"{key} {shown(value)}"
        for key, value in found.items()
        if value is not None and repr(value) not in LIMITS[key]
    ]


def shown(value: object) -> str:
    """A setting as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if is_number(value):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ",".join(shown(each) for each in value) + "]"
    return printable(str(value))


def _departure(key: str, ours: object, papers: object) -> str:
    if key == "trainer.max_epochs":
        return f"{shown(ours)} epochs (paper {shown(papers)})"
    if key == "data.val_size":
        return f"{shown(ours)} training images held out (paper {shown(papers)})"
    group, _, name = key.rpartition(".")
    if name == "_target_":
        kind = {"model": "network"}.get(group, group)
        group, name = "", kind
        ours, papers = (shown(each).rpartition(".")[2] for each in (ours, papers))
    prefix = {"model": "network ", "attack": "attack "}.get(group, "")
    what = "schedule" if key == "scheduler.name" else name.replace("_", " ")
    told = "" if papers is None else f" (paper {shown(papers)})"
    return f"{prefix}{what} {shown(ours)}{told}"
