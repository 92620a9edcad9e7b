"""Where a number came from: versions, code, hardware, and whether that hardware computes at all."""

import inspect
import os
import platform
import resource
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lrm_lightning.errors import UserError, text_of
from lrm_lightning.runs.files import file_sha256

PACKAGES = (
    "lrm_lightning", "torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "wandb",
    "numpy", "scipy", "pyautoattack",
)  # fmt: skip


def stamp(device: torch.device, devices: int = 1) -> dict[str, Any]:
    """When and by what a number was made: fields of a record."""
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(device, devices),
    }


def versions() -> dict[str, str]:
    """Version of Python, of this package and of what the numbers depend on."""
    found = {"python": platform.python_version()} | dict.fromkeys(PACKAGES, "not installed")
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_state() -> dict[str, Any]:
    """Commit of the checkout we run from, and whether it had changes; ``None`` in a wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    dirty = None if changes is None else bool(changes)
    return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": dirty}


def sources(named: Iterable[object], *, package: bool = True) -> dict[str, str]:
    """SHA-256 in hex of each module that defines what is ``named``, or a class that it is one of.

    Modules of installed packages are left out: a record has their versions.

    Args:
        named: Classes, functions or modules.
        package: Whether modules of this package count.
    """
    installed = tuple(sysconfig.get_path(each) for each in ("purelib", "platlib", "stdlib"))
    found: dict[str, str] = {}
    for each in named:
        for part in getattr(each, "__mro__", (each,)):
            module = inspect.getmodule(part)
            file = getattr(module, "__file__", None)
            if module is None or file is None or file.startswith(installed):
                continue
            if package or not module.__name__.startswith("lrm_lightning."):
                found[module.__name__] = file_sha256(Path(file))
    return dict(sorted(found.items()))


def hardware(device: torch.device, devices: int) -> dict[str, Any]:
    """What the run ran on: devices, processor, threads."""
    here = hasattr(os, "sched_getaffinity")  # the cores that this process may use
    return {
        "device": device.type,
        "devices": devices,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": len(os.sched_getaffinity(0)) if here else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process held at once: of a GPU's memory, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def check_device(device: torch.device) -> None:
    """Raise :class:`UserError` unless ``device`` computes; a GPU is seen whatever its driver."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: a torch without this backend
        what = text_of(error)[:200]
        mend = "update its driver, or train on the processor with trainer=cpu"
        raise UserError(f"the device {device} cannot be used: {what}; {mend}") from error


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; true where Linux doesn't tell."""
    with suppress(OSError):
        return "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return True


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
