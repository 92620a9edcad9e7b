"""Where a number came from: versions, code, hardware."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "wandb", "numpy", "scipy",
    "pyautoattack",
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
    found = {"python": platform.python_version()}
    for package in ("lrm_lightning", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """Commit of the checkout we run from, and whether it had changes; ``None`` in a wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _git(folder, "rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def hardware(device: torch.device, devices: int) -> dict[str, Any]:
    """What the run ran on: devices, processor, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "devices": devices,
        "name": name,
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
