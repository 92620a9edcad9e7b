"""The networks that are evaluated: runs of this project, exports of them, and anybody's own."""

import glob
import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import CONFIG, RECORD, finished_run
from lrm_lightning.runs.files import read_json, shown_path
from lrm_lightning.runs.networks import EXPORTED, fill, load_model, read_state, saved_settings


@dataclass(frozen=True)
class Subject:
    """A network and where it came from.

    Attributes:
        network: In eval mode, on the CPU until moved.
        home: Its evaluations are kept in ``home / "evaluations"``.
        name: The method, or the name that the user gave.
        label: Tells it from other networks of the name.
        run_dir: Its run directory, empty if it was not trained here.
        run_id: Its run's, empty if it was not trained here.
        checkpoint: Which of its weights.
        trained: The configuration of its training; empty if it was not trained here.
    """

    network: nn.Module
    home: Path
    name: str
    label: str
    run_dir: str
    run_id: str
    checkpoint: str
    trained: dict[str, Any]

    def as_dict(self) -> dict[str, str]:
        """What a record says about it."""
        return {
            "name": self.name,
            "label": self.label,
            "run_dir": self.run_dir,
            "run_id": self.run_id,
            "checkpoint": self.checkpoint,
            "weights_sha256": weights_sha256(self.network),
        }

    @contextmanager
    def blamed(self, *kinds: type[Exception]) -> Iterator[None]:
        """Exceptions of these kinds, and a full GPU, become one line with the network's name."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError("out of GPU memory: lower batch_size") from error
        except kinds as error:
            what = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"{self.label}: {what}") from error


def find_runs(patterns: Sequence[str] | str, *, key: str = "runs") -> list[Path]:
    """The run directories and exports that ``patterns`` name, each once, in order.

    Args:
        patterns: Directories or glob patterns. What a pattern matches that is no finished run is
            left out.
        key: How the user knows the patterns.

    Raises:
        UserError: If a directory is no finished run, or a pattern matches none.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(str(pattern)).expanduser()
        if glob.has_magic(str(path)):
            matched = [Path(each) for each in sorted(glob.glob(str(path))) if _finished(Path(each))]
            if not matched:
                raise UserError(f"{key}: no finished run matches {pattern}")
        else:
            saved_settings(path)
            if not _finished(path):
                raise UserError(f"{key}: the run {path} is not finished: it has no {RECORD} yet")
            matched = [path]
        found.update(dict.fromkeys(matched))
    return list(found)


def from_run(folder: Path, checkpoint: str | None = None) -> Subject:
    """The network of a run directory or an export.

    Args:
        folder: Where.
        checkpoint: ``"last"`` or ``"best"``; the one the run was tested with by default.

    Raises:
        UserError: If it can't be loaded.
    """
    saved = saved_settings(folder)
    network = load_model(folder, checkpoint=checkpoint)
    exported = read_json(folder / EXPORTED)
    record = finished_run(folder)
    training = (exported or {}).get("training") or {}
    return Subject(
        network=network,
        home=folder,
        name=str((saved["config"].get("method") or {}).get("name", folder.name)),
        label=folder.resolve().name,
        run_dir=shown_path(folder),
        run_id=record.run_id if record else str(training.get("run_id", "")),
        checkpoint=checkpoint or saved["select"],
        trained=saved["config"],
    )


def from_outside(target: str, *, weights: str | None, name: str | None, out: str | Path) -> Subject:
    """A network that this project did not train.

    Args:
        target: ``package.module:function``, which is imported and called without arguments; it
            returns a network from pixels in [0, 1], shape ``(B, 3, H, W)``, to logits.
            Importing runs its code: name only what you trust.
        weights: File of its weights, from which nothing is executed; ``None`` if the function has
            loaded them.
        name: What to call it; the function's name by default.
        out: Its evaluations are kept in ``out / name / "evaluations"``.

    Raises:
        UserError: If it can't be imported, called or filled.
    """
    module, _, function = target.partition(":")
    if not (module and function):
        raise UserError(f"network={target} must be an import path, package.module:function")
    name = name or function
    if Path(name).name != name or name in (".", ".."):
        raise UserError(f"name={name} must be usable as the name of a folder")
    try:
        network = getattr(importlib.import_module(module), function)()
    except Exception as error:  # it is anybody's code
        raise UserError(f"network={target}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"network={target} returned a {type(network).__name__}, not a torch.nn.Module"
        )
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"weights={weights}: there is no such file")
        fill(network, read_state(path), path)
    return Subject(
        network=network.eval().float(),
        home=Path(out) / name,
        name=name,
        label=name,
        run_dir="",
        run_id="",
        checkpoint=Path(weights).name if weights else "",
        trained={},
    )


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 in hex over a network's state: names, types, shapes and numbers, however stored."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)} ".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _finished(folder: Path) -> bool:
    trained_here = (folder / CONFIG).is_file() and (folder / RECORD).is_file()
    return trained_here or (folder / EXPORTED).is_file()
