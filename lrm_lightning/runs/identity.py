"""The configuration: where it lies, and what of it identifies a run."""

import difflib
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lrm_lightning.errors import UserError

# What does not change a run's result: where it writes, who watches, on what it runs.
NOT_IDENTIFYING = ("hydra", "runs_dir", "rerun", "sweep", "logger")
NOT_IDENTIFYING_IN = {
    "data": "root download",
    "attack": "engine",
    "trainer": "accelerator devices num_nodes strategy sync_batchnorm log_every_n_steps",
    "checkpoint": "every_minutes",
}
# Callbacks of Lightning that only watch; any other, anybody's own included, may change a training.
WATCHERS = re.compile(r"lightning\.pytorch\.callbacks\.\w*(Monitor|ModelSummary|ProgressBar)")
# Mappings of which each key is read by its name; those of other mappings are a class's arguments.
READ_BY_NAME = ("checkpoint", "data")
# Quantities of pixels, wherever they stand: the field writes them as fractions, such as 8/255.
PIXELS = ("eps", "step_size", "large_eps")
FRACTION = re.compile(r"\s*(\d+\.?\d*)\s*/\s*0*([1-9]\d*)\s*")


def conf_dir() -> Path:
    """Folder of the YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@cache
def _file(name: str) -> Any:  # noqa: ANN401
    """``conf/<name>.yaml`` as it is; a sweep asks for it once a job, and YAML is slow to read."""
    return OmegaConf.load(conf_dir() / f"{name}.yaml")


def check_kinds(cfg: DictConfig, name: str) -> None:
    """Raise :class:`UserError` unless each setting is of the kind it has in ``conf/<name>.yaml``.

    A group or a mapping is a mapping; a text is a text, and so is what is null unless it stays
    null; a list is a text or a list of texts. Numbers have their own checks.
    """
    base = _file(name)
    chosen = [
        item for each in base.defaults if isinstance(each, DictConfig) for item in each.items()
    ]
    groups = {str(key) for key, file in chosen if file and (conf_dir() / str(key)).is_dir()}
    for key in sorted({*map(str, base), *groups} - {"defaults", "hydra"}):
        if key not in cfg:
            raise UserError(f"{key} is missing; leave it as it is instead of deleting it")
        like, found = base.get(key), cfg.get(key)
        texts = found if isinstance(found, ListConfig) else [found]
        all_text = all(isinstance(each, str) for each in texts)
        if key in groups or isinstance(like, DictConfig):
            files = sorted(path.stem for path in (conf_dir() / key).glob("*.yaml"))
            wanted = f"a mapping{'; choose one of: ' * bool(files)}{', '.join(files)}"
            right = isinstance(found, DictConfig)
        elif isinstance(like, ListConfig):
            wanted, right = "a text or a list of texts", all_text
        else:
            wanted = "text; a number is one in two pairs of quotes"
            right = isinstance(like, (int, float)) or found is like or isinstance(found, str)
            right |= key == "output" and isinstance(found, int)
        if not right:
            raise UserError(f"{key}={found!r} must be {wanted}")


def check_keys(cfg: DictConfig, name: str, **more: Collection[str]) -> None:
    """Raise :class:`UserError` for a key that was added with ``+`` and that nothing would read.

    Args:
        cfg: The composed configuration, whose settings are of the right kinds.
        name: Of the command's YAML file, ``conf/<name>.yaml``.
        **more: By a mapping's name all keys that are read of it, beside those of the file.
    """
    base = _file(name)
    chosen = [str(key) for each in base.defaults if isinstance(each, DictConfig) for key in each]
    groups = [key for key in chosen if " " not in key]  # "override hydra/help" is no key
    top = {*map(str, base), *groups} - {"defaults", "hydra"}
    mappings = {key: base[key] for key in READ_BY_NAME if isinstance(base.get(key), DictConfig)}
    known = {group: {*map(str, node)} for group, node in mappings.items()}
    text = OmegaConf.to_yaml(cfg)
    for group, keys in {"": top, **known, **more}.items():
        where, node = (f"{group}.", cfg[group]) if group else ("", cfg)
        if "_target_" in node and "_target_" not in keys:
            continue  # a data set of the user's own, with its class's arguments
        for key in map(str, node):
            if key not in keys and f"${{{where}{key}" not in text:  # another key may refer to it
                (near,) = difflib.get_close_matches(key, [*top, *keys], n=1, cutoff=0)
                near = near if near in top else where + near
                value: Any = OmegaConf.to_container(OmegaConf.masked_copy(node, key))
                added = next(iter(flat(value)))  # as it was typed
                raise UserError(
                    f"{where}{added} has no effect; the nearest key that has one is {near}"
                )


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts and lists, without Hydra's own."""
    with_hydra = {key: value for key, value in cfg.items_ex(resolve=False) if key != "hydra"}
    bare = OmegaConf.create(with_hydra, flags={"allow_objects": False})
    resolved = OmegaConf.to_container(bare, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def numeric(config: Any) -> Any:  # noqa: ANN401
    """A configuration in which pixels that were typed as fractions are numbers."""
    if not isinstance(config, Mapping):
        return config
    return {
        key: _pixels(value) if key in PIXELS else numeric(value) for key, value in config.items()
    }


def _pixels(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_pixels(each) for each in value]
    found = FRACTION.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) / float(found[2]) if found else numeric(value)


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The part of the configuration that determines a run's result."""
    return identifying(plain(cfg))


def identifying(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration, which may be a stranger's, that determines a result."""
    config = numeric(config)
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTIFYING}
    for key in ("extend", "init_from"):
        if kept.get(key) is None:  # so that runs keep the names they had before there was the key
            kept.pop(key, None)
    groups = {key: value for key, value in config.items() if isinstance(value, dict)}
    for group, keys in NOT_IDENTIFYING_IN.items():
        if group in groups:
            kept[group] = {key: v for key, v in groups[group].items() if key not in keys.split()}
    if groups.get("data", {}).get("name") == "arrays":  # other data have a name of their own
        kept["data"]["root"] = groups["data"].get("root")
    trainer = groups.get("trainer", {})
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    devices = len(devices) if isinstance(devices, list) else devices
    if (devices, nodes) != (1, 1) and not trainer.get("sync_batchnorm"):
        # Each device normalises its own share of a batch, so their number matters; else it doesn't.
        kept["trainer"]["batch_norm_apart_on"] = [devices, nodes]
    kept["callbacks"] = {
        name: node
        for name, node in groups.get("callbacks", {}).items()
        if not (isinstance(node, dict) and WATCHERS.fullmatch(str(node.get("_target_"))))
    }
    return kept


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration by dotted keys, such as ``{"method.alpha": 0.0}``; an empty group is kept."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_group = isinstance(value, Mapping) and value
        found |= flat(value, f"{name}.") if is_group else {name: value}
    return found


def hashed(identity: object) -> str:
    """SHA-256 in hex of what determines a result, given as JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def run_id(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name the configuration; equal configurations share them."""
    return hashed(identity(cfg))[:8]


def _of_directory(*, _root_: DictConfig) -> str:
    """:func:`run_id` of the whole configuration, whose names have to be those of folders too."""
    for key in ("data.name", "method.name"):
        name = str(OmegaConf.select(_root_, key))
        if Path(name).name != name or name == "..":
            raise UserError(f"{key}={name} must be usable as the name of a folder")
    where = OmegaConf.select(_root_, "runs_dir")
    if not isinstance(where, str) or not where.strip():  # it would be the file system's root
        raise UserError(f"runs_dir={where!r} must name a folder, such as runs_dir=runs")
    return run_id(_root_)


# On import, so that a job that a cluster's launcher unpickles elsewhere knows it too. Directories
# are named by it, so it is asked before one is made.
OmegaConf.register_new_resolver("run_id", _of_directory, replace=True)
