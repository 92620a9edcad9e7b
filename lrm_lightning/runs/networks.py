"""Loading trained networks: runs of this project, and exports of them.

Files may come from anybody: nothing in them is executed, and a class that they name is one of ours
or of a package that the user trusts, or is refused. An import path on the command line is code that
runs: the user names what he trusts.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrm_lightning.errors import UserError, text_of
from lrm_lightning.runs import directory
from lrm_lightning.runs.directory import BEST, CONFIG, EXPORTED, LAST, RECORD, checkpoint_path
from lrm_lightning.runs.files import file_sha256, matches, shown_path
from lrm_lightning.runs.integrity import content_sha256
from lrm_lightning.runs.records import Network, one_line, printable
from lrm_lightning.runs.settings import read_settings
from lrm_lightning.runs.weights import fill

# A run directory may come from anybody: without ``trust`` it may name only a network of MODELS.
MODELS = "lrm_lightning.models"
# How the LightningModule calls the network's weights.
PREFIX = "network."


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and where it came from."""

    module: nn.Module  # in eval mode, on the CPU until moved
    about: Network  # what the record of an evaluation says about it
    folder: Path  # its evaluations are kept in here
    config: dict[str, Any]  # of its training; empty if it was not trained here


def load_model(
    run_dir: str | Path,
    *,
    checkpoint: str | None = None,
    network: nn.Module | None = None,
    trust: Sequence[str] = (),
) -> nn.Module:
    """The trained network of a run, alone: no Lightning, no defence.

    Args:
        run_dir: A run directory, or a folder that :mod:`lrm_lightning.export` has written.
        checkpoint: ``"last"`` or ``"best"``; the one the run was tested with by default. An export
            has one only.
        network: A network to fill, for a run with a network that is not this package's.
        trust: Packages or modules whose code may run: a network of theirs that the run names is
            imported and built.

    Returns:
        The network on the CPU in eval mode: pixels in [0, 1], shape ``(B, channels, H, W)``, to
        logits ``(B, C)``. Weights are laid out channels last, a quarter faster on a CPU, and so is
        what ``torch.autograd.grad`` gives; for code that calls ``view`` on such gradients take
        ``load_model(...).to(memory_format=torch.contiguous_format)``.

    Raises:
        UserError: If there is no such run, or its files are damaged or do not fit each other.
    """
    folder = Path(run_dir)
    saved = saved_settings(folder)
    network = _build(saved["network"], folder, trust) if network is None else network
    path, prefix = weights_file(folder, checkpoint or saved["select"])
    fill(network, path, prefix, saved["run_id"])
    # torch's stub forgets that memory_format suffices
    return network.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def weights_file(folder: Path, checkpoint: str) -> tuple[Path, str]:
    """The file with the weights of a run or an export, and how their names begin in it."""
    if (folder / EXPORTED).exists():
        path, prefix, mend = folder / directory.EXPORTED_WEIGHTS, "", "export it again"
    else:
        path = checkpoint_path(folder, checkpoint)
        prefix, mend = PREFIX, "the run has not finished its first epoch"
        kept = [name for name in (LAST, BEST) if checkpoint_path(folder, name).exists()]
        if kept:
            mend = f"the run has checkpoint={kept[0]} alone; give that"
        elif (folder / RECORD).exists():
            mend = "train the run with rerun=true"
    if not path.exists():
        raise UserError(f"checkpoint {path} is missing; {mend}")
    files = saved_settings(folder)["files"]
    if files and files.get(path.name) != file_sha256(path):
        raise UserError(f"{path} has changed since it was exported; {mend}")
    return path, prefix


def load_run(
    folder: Path, checkpoint: str | None = None, trust: Sequence[str] = ()
) -> TrainedNetwork:
    """The network of a finished run or of an export; arguments and errors as :func:`load_model`."""
    saved, record = saved_settings(folder), directory.finished_run(folder)
    if record is None and not (folder / EXPORTED).is_file():
        raise UserError(f"the run {folder} is not finished: it has no {RECORD} yet")
    module = load_model(folder, checkpoint=checkpoint, trust=trust)
    chosen, sha256 = checkpoint or saved["select"], weights_sha256(module)
    recorded = record.weights.get(chosen) if record else None
    if recorded not in (None, sha256) and not (folder / EXPORTED).exists():
        path = checkpoint_path(folder, chosen)
        raise UserError(f"{path} has changed since its run ended; train the run with rerun=true")
    about = Network(
        name=str((saved["config"].get("method") or {}).get("name", folder.name)),
        label=folder.resolve().name,
        run_dir=shown_path(folder),
        run_id=record.run_id if record else saved["run_id"],
        checkpoint=chosen,
        weights_sha256=sha256,
    )
    return TrainedNetwork(module, about, folder, saved["config"])


def imported(key: str, target: str, *arguments: object) -> nn.Module:
    """What ``package.module:function``, the setting ``key``, returns for these arguments.

    Raises:
        UserError: If it can't be imported or called, or returns no module.
    """
    module, _, function = target.partition(":")
    if not (module and function):
        raise UserError(f"{key}={target} must be an import path, package.module:function")
    try:
        network = getattr(import_module(module), function)(*arguments)
    except Exception as error:  # it is anybody's code
        raise UserError(f"{key}={target}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise UserError(f"{key}={target} returned a {kind}, not a torch.nn.Module")
    return network


def load_runs(
    patterns: Sequence[str] | str,
    checkpoint: str | None = None,
    trust: Sequence[str] = (),
    *,
    key: str = "runs",
) -> list[TrainedNetwork]:
    """The networks of the runs and exports that ``patterns`` name, each once, in order.

    Of what a glob pattern matches, folders that can't be used are named on stderr and left out.
    ``key`` is the user's setting, for messages; ``checkpoint`` and ``trust`` are as in
    :func:`load_model`.

    Raises:
        UserError: If a folder that is named as it is can't be used, or of a pattern none can.
    """
    found: dict[Path, TrainedNetwork] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        paths, is_pattern = matches(str(pattern))
        loaded, unusable = {}, ""
        for path in paths:
            try:
                if path.is_dir() or not is_pattern:
                    loaded[path] = found.get(path) or load_run(path, checkpoint, trust)
            except UserError as error:
                if not is_pattern:
                    raise
                unusable = one_line(str(error))
                sys.stderr.write(f"skipped: {unusable}\n")
        if not loaded:
            none = (
                "nothing that matches it can be used" if unusable else "no finished run matches it"
            )
            raise UserError(f"{key}={pattern}: {none}")
        found |= loaded
    return list(found.values())


def saved_settings(folder: Path) -> dict[str, Any]:
    """What a run directory or an export says of its network; raises if it is damaged or not there.

    ``network`` says how to build it, ``select`` which checkpoint was tested, ``config`` is the
    resolved configuration, ``identity`` what of it determines the result (of an export the same),
    ``run_id`` the run's, ``files`` the SHA-256 of an export's weights.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder of the run or of the export")
    path = folder / (EXPORTED if (folder / EXPORTED).exists() else CONFIG)
    try:
        saved = read_settings(path)
    except FileNotFoundError as error:
        missing = f"{path.name} is missing; give a run directory"
        raise UserError(f"no run in {folder}: {missing}") from error
    except UserError as error:
        again = "export it" if path.name == EXPORTED else "train the run"
        raise UserError(f"{error}; {again} again") from error
    config = saved["config"]
    return {
        "network": dict(saved["network"]),
        "select": config["checkpoint"]["select"],
        "config": config,
        "identity": saved.get("identity", config),
        "run_id": str(saved.get("run_id") or saved.get("training", {}).get("run_id", "")),
        "files": saved.get("files", {}),
    }


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 in hex over a network's state: names, types, shapes and numbers, however stored."""
    return content_sha256(network.state_dict())


def trusted(target: str, trust: Sequence[str]) -> Callable[..., Any] | None:
    """What a file names by an import path, if it is defined in a package or module of ``trust``.

    Raises:
        UserError: If ``trust`` holds no names of modules, or a trusted module can't be imported.
    """
    trust = [trust] if isinstance(trust, str) else trust
    if not all(_is_module_name(each) for each in trust):
        raise UserError(f"trust={trust} must be a list of packages, e.g. trust=[my_package]")
    module, _, name = target.rpartition(".")
    if not _within(module, trust):
        return None
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:  # it is anybody's code
        raise UserError(f"{target} cannot be imported: {type(error).__name__}: {error}") from error
    # Defined there: a module also leads to all that it imports.
    ours = callable(found) and _within(str(getattr(found, "__module__", "")), trust)
    return found if ours else None


def _is_module_name(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _build(settings: dict[str, Any], folder: Path, trust: Sequence[str]) -> nn.Module:
    target = str(settings.pop("_target_", ""))
    found = trusted(target, trust)
    if found is None:
        with suppress(UserError):
            found = trusted(target, [MODELS])
        found = found if isinstance(found, type) and issubclass(found, nn.Module) else None
    if found is None:
        raise UserError(
            f"{folder} names the network {printable(target)}, which is not this package's; where"
            f" you trust its code give trust=[{printable(target.partition('.')[0])}], or build it"
            " yourself and pass it as load_model(..., network=...)"
        )
    try:
        # Not hydra's instantiate: it would call any _target_ inside the arguments too.
        network = found(**settings)
    except (TypeError, ValueError) as error:
        why = text_of(error)[:160]
        raise UserError(f"{folder} is damaged, {why}; train the run again") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{target} returned a {type(network).__name__}, not a torch.nn.Module")
    return network
