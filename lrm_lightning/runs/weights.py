"""Weights from files of anybody, in the layouts that public checkpoints have.

Nothing in a file is executed.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy._core.multiarray import scalar
from torch import Tensor, nn

from lrm_lightning.errors import UserError, text_of
from lrm_lightning.runs.directory import LAST, PREVIOUS
from lrm_lightning.runs.integrity import opened
from lrm_lightning.runs.records import printable

# Keys under which checkpoints have the state dict, one within another where there are several.
NESTED = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "ema", "params",
)  # fmt: skip
# What NumPy's numbers are pickled as, which many checkpoints have beside the weights: a type and
# bytes, of which nothing is executed.
NUMBERS: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")] + [
    np.dtype,
    *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "?")),
]
SHOWN = 4  # names in a message
WHOSE = "whose"  # in a run's checkpoints: see checkpoint_owner


def fill(network: nn.Module, path: Path, prefix: str = "", run_id: str = "") -> None:
    """Load the tensors of a file whose names begin with ``prefix``.

    Names may all have one more prefix, such as ``module.``, if without it they are the network's.

    Args:
        network: Of which every tensor is replaced.
        path: ``*.safetensors``, or what ``torch.save`` wrote: a state dict, alone or in a
            dictionary under one of :data:`NESTED`.
        prefix: How the names begin that are meant; they are known without it.
        run_id: Of the run that it must be a checkpoint of, if it must be one.

    Raises:
        UserError: If the file is damaged, holds more than plain values or does not fit.
    """
    own = network.state_dict()
    found = _tensors(path, run_id)
    state = {key[len(prefix) :]: each for key, each in found.items() if key.startswith(prefix)}
    state = _without_prefix(state, own)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        differing = {"unexpected": state.keys() - own.keys(), "missing": own.keys() - state.keys()}
        listed = [f"{what} keys {_listed(names)}" for what, names in differing.items() if names]
        problem = printable("; ".join(listed)) or text_of(error)[:160]
        raise UserError(f"{path} does not fit the network: {problem}") from error


def checkpoint_owner(path: Path, run_id: str) -> str:
    """What a checkpoint says of the run and the file that it was written for."""
    return f"{run_id}/{LAST if path.stem == PREVIOUS else path.stem}"


def read_checkpoint(path: Path, run_id: str = "") -> Any:  # noqa: ANN401
    """What ``torch.save`` wrote, its tensors on the CPU; nothing in it is executed.

    It must be as it was written, without NaN and, if ``run_id`` is given, that run's. torch itself
    heeds no checksum.

    Raises:
        ValueError: If it is not.
        Exception: If it can't be read: torch raises half a dozen types. See :func:`flaw`.
    """
    if zipfile.is_zipfile(path):  # torch.save had other formats once
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise ValueError("its bytes have changed since they were written")
    with torch.serialization.safe_globals(NUMBERS):
        saved = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict):
        return saved
    saved = opened(saved)
    whose = checkpoint_owner(path, run_id)
    if run_id and saved.get(WHOSE, whose) != whose:  # older versions wrote none
        raise ValueError(f"it is another checkpoint, {saved[WHOSE]}")
    tensors = dict(saved.get("state_dict", saved)).values()
    if any(isinstance(each, Tensor) and each.isnan().any() for each in tensors):
        raise ValueError("it holds weights that are NaN")
    return saved


def flaw(error: Exception) -> str:
    """What is wrong with a file, in our words: torch's advise to load it so that code may run."""
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        what = f"it holds a {printable(refused[1])}"
        return f"{what}, which is refused because loading it could run code"
    ours = type(error) is ValueError or getattr(error, "filename", None)
    return text_of(error) if ours else "it is damaged or holds something else than tensors"


def _tensors(path: Path, run_id: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        saved = read_checkpoint(path, run_id)
        while inner := [saved[key] for key in NESTED if isinstance(saved.get(key), Mapping)]:
            saved = inner[0]
        state = dict(saved)
    except Exception as error:  # any damage: torch raises half a dozen types
        again = "train the run with rerun=true" if run_id else "save network.state_dict() alone"
        raise UserError(f"checkpoint {path}: {flaw(error)}; {again}") from error
    if not all(isinstance(key, str) and isinstance(each, Tensor) for key, each in state.items()):
        keys = printable(", ".join(map(str, list(state)[:SHOWN])))
        raise UserError(
            f"checkpoint {path} holds {keys} instead of tensors; save network.state_dict() itself"
        )
    return state


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state by the names ``own``, if they differ from its names by a common prefix alone."""
    first = next(iter(own), "")
    for key in state:
        prefix = key.removesuffix(first)
        if state.keys() == {prefix + name for name in own}:
            return {name: state[prefix + name] for name in own}
    return state


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
