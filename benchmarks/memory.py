"""Peak memory of a short and a long attack, in a process that has done nothing else.

python -m benchmarks.memory LINE MODEL DEVICE IMAGES SHORT LONG
"""

import json
import resource
import sys
from pathlib import Path

import torch

from benchmarks.lines import WORKLOADS
from benchmarks.settings import Settings
from benchmarks.subject import build_network

MIB = 2**20
SETTLED = 3


def main() -> None:
    """Print how many MiB each attack took at its peak, as JSON.

    The short one runs first and the peak only rises, so what the long one has over it is what its
    further steps take. It runs a few times, because an allocator needs some to find its size.
    """
    line, model, device, images, short, long = sys.argv[1:]
    network = build_network(Settings(model=model, device=device))
    x = torch.rand(int(images), 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y = torch.arange(int(images), device=device) % 10
    before, found = _peak(device), []
    for steps, calls in ((int(short), SETTLED), (int(long), 1)):
        for _ in range(calls):
            WORKLOADS[int(line)](network, x, y, steps)
        found.append((_peak(device) - before) / MIB)
    sys.stdout.write(json.dumps(found))


def _peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Rather than getrusage, which on Linux begins at the peak of whoever started us.
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
