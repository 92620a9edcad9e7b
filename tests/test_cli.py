"""What every command shares: freed memory is kept, unless the user has tuned the allocator."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Takes and frees 64 MiB again and again; prints how many pages of it the system had to give.
CHURN = """
import resource, sys
from lrm_lightning.cli import keep_freed_memory
changed = keep_freed_memory() if "keep" in sys.argv else False
def churn():
    bytearray(64 << 20)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
before = faults()
for _ in range(10):
    churn()
print(int(changed), faults() - before)
"""
PAGES = (64 << 20) // 4096


def churned(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", CHURN, *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    changed, faults = done.stdout.split()
    return changed == "1", int(faults)


def huge_pages():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[always]" in setting.read_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.skipif(huge_pages(), reason="the system gives pages of several sizes")
def test_freed_memory_is_kept():
    _, without = churned()
    changed, kept = churned("keep")
    assert changed
    assert without > 9 * PAGES  # else there was nothing to gain
    assert kept < PAGES // 10


@pytest.mark.parametrize(
    "tuned",
    [{"MALLOC_TRIM_THRESHOLD_": "100000"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=10"}],
    ids=["variable", "tunable"],
)
def test_a_user_who_tunes_it_is_let_alone(tuned):
    changed, _ = churned("keep", **tuned)
    assert not changed


@pytest.mark.parametrize(
    "command", ["lrm_lightning.train --cfg hydra", "lrm_lightning.runs commands"]
)
def test_a_reader_that_has_enough_is_no_error(command, make_run, tmp_path):
    make_run()
    reads, writes = os.pipe()
    os.close(reads)
    words = [sys.executable, "-m", *command.split()]
    given = {"stdout": writes, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    done = subprocess.run(words, check=False, **given)
    os.close(writes)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
