"""What was set in a run, and what of it tells it from another run, or from the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.fields import is_number, printable
from lrm_lightning.runs.identity import NOT_IDENTIFYING, NOT_IDENTIFYING_IN

# What is measured after training, or how it is watched, doesn't make another training.
NOT_OF_TRAINING = (
    "seed",
    "robust_accuracy",
    "checkpoint.monitor",
    "method._target_",
    "method.epochs",
)
NAMED_AT_MOST = 4

Settings = Mapping[str, Any]


def training_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a training but for its seed: flat, such as ``{"method.alpha": 0.0}``."""
    flat = _flatten({key: each for key, each in config.items() if key not in NOT_IDENTIFYING})
    unwanted = set(NOT_OF_TRAINING)
    unwanted |= {f"{group}.{key}" for group, keys in NOT_IDENTIFYING_IN.items() for key in keys}
    return {
        key: value
        for key, value in flat.items()
        if key not in unwanted and key.split(".")[0] not in unwanted
    }


def paper_method(method: str, settings: Settings) -> paper.Method | None:
    """The paper's row that a run is; ``None`` if its settings make another defence."""
    row = paper.METHODS.get(method)
    if row is None or not settings:
        return None
    fits = all(_same(settings.get(f"method.{key}"), value) for key, value in row.knobs.items())
    return row if fits else None


def differences(all_settings: Sequence[Settings]) -> list[dict[str, Any]]:
    """For each of several runs, the settings in which not all agree."""
    keys = sorted({key for settings in all_settings for key in settings})
    differing = [key for key in keys if len({shown(each.get(key)) for each in all_settings}) > 1]
    return [{key: each.get(key) for key in differing} for each in all_settings]


def summary(settings: Settings) -> str:
    """A few settings as a label, such as ``smoothing=0.1, trainer.max_epochs=7``."""
    # The method's own settings say most, and need no prefix.
    ordered = sorted(settings, key=lambda key: (not key.startswith("method."), key))
    named = [f"{key.removeprefix('method.')}={shown(settings[key])}" for key in ordered]
    more = len(named) - NAMED_AT_MOST
    return ", ".join(named[:NAMED_AT_MOST]) + (f", and {more} more" if more > 0 else "")


def departures(method: str, settings: Settings) -> list[str]:
    """In what a run's recipe is not section 5.1's, such as ``network depth 1 (paper 5)``."""
    row = paper.METHODS.get(method)
    recipe = dict(paper.RECIPE)
    if row is not None:
        recipe["trainer.max_epochs"] = row.epochs
        if (
            "alpha" not in row.knobs
        ):  # trained on clean images: the attack is the evaluation's alone
            recipe = {key: each for key, each in recipe.items() if not key.startswith("attack.")}
    if settings.get("model._target_") != recipe["model._target_"]:
        recipe = {
            key: each
            for key, each in recipe.items()
            if key.split(".")[1] not in ("depth", "widths")
        }
    return [
        _departure(key, settings[key], value)
        for key, value in recipe.items()
        if key in settings and not _same(settings[key], value)
    ]


def attack_departures(attack: Mapping[str, Any]) -> list[str]:
    """In what an attack is not the paper's, such as ``step size 0.015 (paper 0.0078)``."""
    return [
        _departure(key, attack[key], value)
        for key, value in paper.THREAT_MODEL.items()
        if key in attack and not _same(attack[key], value)
    ]


def shown(value: object) -> str:
    """A setting as one would type it."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if is_number(value):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ",".join(shown(each) for each in value) + "]"
    return printable(str(value))


def _departure(key: str, ours: object, papers: object) -> str:
    if key == "trainer.max_epochs":
        return f"{shown(ours)} epochs (paper {shown(papers)})"
    if key == "model._target_":
        return (
            f"network {shown(ours).rpartition('.')[2]} (paper {shown(papers).rpartition('.')[2]})"
        )
    group, _, name = key.rpartition(".")
    prefix = {"model": "network ", "attack": "attack "}.get(group, "")
    return f"{prefix}{name.replace('_', ' ')} {shown(ours)} (paper {shown(papers)})"


def _same(one: object, other: object) -> bool:
    return shown(one) == shown(other)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{printable(str(key))}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
