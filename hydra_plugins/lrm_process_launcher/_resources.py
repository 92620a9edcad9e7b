"""What the machine has to share out among jobs: GPUs and CPU cores."""

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hydra_plugins.lrm_process_launcher._job import Job
from lrm_lightning.errors import UserError


class DevicePool:
    """Devices that are lent to jobs and come back.

    Args:
        ids: The devices.
        jobs_each: How many jobs may hold one device at the same time.
    """

    def __init__(self, ids: Iterable[str], jobs_each: int = 1) -> None:
        self._free = dict.fromkeys(ids, jobs_each)

    def take(self, count: int) -> tuple[str, ...] | None:
        """Lend ``count`` different devices, the least used first; None if too few are free."""
        usable = [device for device, free in self._free.items() if free > 0]
        if len(usable) < count:
            return None
        chosen = sorted(usable, key=lambda device: -self._free[device])[:count]
        for device in chosen:
            self._free[device] -= 1
        return tuple(chosen)

    def give_back(self, devices: Iterable[str]) -> None:
        """Return what :meth:`take` lent."""
        for device in devices:
            self._free[device] += 1


class Machine:
    """The GPUs and cores that the user lets us use.

    Args:
        gpus: None for all visible GPUs, a number of them, or a list of ids as in
            CUDA_VISIBLE_DEVICES.
        cores: Number of cores, or None for all this process may use.
    """

    def __init__(self, gpus: int | Sequence[Any] | None, cores: int | None) -> None:
        self._gpus = gpus
        self.cores = cores or _usable_cores()

    @cached_property
    def gpus(self) -> list[str]:
        """Ids for CUDA_VISIBLE_DEVICES; looked up only if a job may want one, as it takes torch."""
        if self._gpus == 0:
            return []
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        known = None if visible is None else _cuda_ids(visible)
        if self._gpus is not None and not isinstance(self._gpus, int):
            chosen = [str(gpu) for gpu in self._gpus]
            if known is not None and not set(chosen) <= set(known):
                raise UserError(
                    f"hydra.launcher.gpus={chosen}: not all are in CUDA_VISIBLE_DEVICES={visible}"
                )
            return chosen
        if known is None:
            import torch

            known = [str(gpu) for gpu in range(torch.cuda.device_count())]
        if self._gpus is not None and self._gpus > len(known):
            raise UserError(f"hydra.launcher.gpus={self._gpus}: only {len(known)} GPUs are visible")
        return known[: self._gpus]


def _cuda_ids(visible: str) -> list[str]:
    """Entries of CUDA_VISIBLE_DEVICES up to the first negative one, where CUDA stops reading."""
    ids: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if not entry or entry.startswith("-"):
            break
        ids.append(entry)
    return ids


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


@dataclass(frozen=True)
class Share:
    """What one job holds while it runs.

    Attributes:
        slots: The devices, to be given back.
        environment: Variables that confine the job to them.
        text: The same in words.
    """

    slots: tuple[str, ...]
    environment: dict[str, str]
    text: str


@dataclass
class Resources:
    """Shares out a machine among the jobs of one batch.

    On the CPU every job gets the same number of cores, so that its speed and its rounding don't
    depend on when it happens to start.

    Args:
        machine: What there is.
        jobs: The jobs to come.
        at_once: How many may run at once; None for as many as there are devices for.
        jobs_per_gpu: How many jobs may share a GPU.
    """

    machine: Machine
    jobs: Sequence[Job]
    at_once: int | None = None
    jobs_per_gpu: int = 1
    _ports: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        on_cpu = sum(not job.on_gpu for job in self.jobs)
        wide = min(self.at_once or self.machine.cores, max(on_cpu, 1))
        self.cores_each = max(1, self.machine.cores // wide)
        self._cores = DevicePool(map(str, range(max(self.machine.cores, wide))))
        wants_gpu = any(job.on_gpu for job in self.jobs)
        self._gpus = DevicePool(self.machine.gpus if wants_gpu else (), self.jobs_per_gpu)
        self._running = 0

    def take(self, job: Job) -> Share | None:
        """The job's share, or None while too little is free."""
        if self.at_once is not None and self._running >= self.at_once:
            return None
        share = self._take_gpus(job) if job.on_gpu else self._take_cores(job)
        if share is not None:
            self._running += 1
        return share

    def give_back(self, job: Job, share: Share) -> None:
        """Make the share free for another job."""
        self._running -= 1
        (self._gpus if job.on_gpu else self._cores).give_back(share.slots)

    def _take_gpus(self, job: Job) -> Share | None:
        slots = self._gpus.take(job.devices)
        if slots is None:
            return None
        ids = ",".join(slots)
        environment = {"CUDA_VISIBLE_DEVICES": ids} | self._port_for(job)
        return Share(slots, environment, f"GPU {ids}")

    def _take_cores(self, job: Job) -> Share | None:
        slots = self._cores.take(max(self.cores_each, min(job.devices, self.machine.cores)))
        if slots is None:
            return None
        threads = str(max(1, len(slots) // job.devices))
        environment = {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        processes = f"{job.devices} processes, " if job.devices > 1 else ""
        text = f"{processes}{threads} thread{'s' * (threads != '1')}"
        return Share(slots, environment | self._port_for(job), text + " each" * bool(processes))

    def _port_for(self, job: Job) -> dict[str, str]:
        """A port of its own for a job whose processes have to find each other."""
        if job.devices == 1:
            return {}
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if (
                port not in self._ports
            ):  # a job that has yet to bind its port hasn't taken it for others
                self._ports.add(port)
                return {"MASTER_PORT": str(port)}
