"""Where a number came from."""

import json
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from lrm_lightning.runs import provenance


def test_versions_name_python_and_every_package(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["no-such-package"] == "not installed"


@pytest.mark.parametrize(
    ("checkout", "answers", "state"),
    [
        (True, {"rev-parse": "0123abcd", "status": ""}, ("0123abcd", False)),
        (True, {"rev-parse": "0123abcd", "status": " M train.py"}, ("0123abcd", True)),
        (True, {"rev-parse": None, "status": None}, (None, None)),  # git does not answer
        (False, {}, (None, None)),  # a wheel
    ],
)
def test_git_state(monkeypatch, checkout, answers, state):
    monkeypatch.setattr(provenance.Path, "exists", lambda self: checkout)
    monkeypatch.setattr(provenance, "_git", lambda folder, *words: answers[words[0]])
    assert tuple(provenance.git_state().values()) == state


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("git", 10)])
def test_git_that_is_missing_or_hangs(monkeypatch, tmp_path, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(provenance.subprocess, "run", fail)
    assert provenance._git(tmp_path, "status") is None


def test_stamp_is_plain():
    stamp = provenance.stamp(torch.device("cpu"), 2)
    json.dumps(stamp)
    assert datetime.fromisoformat(stamp["written"]).utcoffset().total_seconds() == 0
    assert stamp["versions"]["pyautoattack"] == "0.2.0"
    assert stamp["git"].keys() == {"commit", "dirty"}
    found = stamp["hardware"]
    assert found["device"] == "cpu"
    assert found["devices"] == 2
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
    assert found["name"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_what_the_kernel_says():
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    found = provenance.peak_memory(torch.device("cpu"))
    # The kernel counts pages with some delay.
    assert found == pytest.approx(1024 * int(peak), rel=0.02)


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ("flags : avx512f avx512_vnni", False),
        ("flags : avx512f avx512_bf16", True),
        ("flags : amx_bf16", True),
        ("Features : asimd bf16 i8mm", True),
        (None, True),
    ],
)
def test_bfloat16_is_what_linux_tells(tmp_path, monkeypatch, told, has):
    cpuinfo = tmp_path / "cpuinfo"
    if told is not None:
        cpuinfo.write_text(told)
    monkeypatch.setattr(provenance, "Path", lambda path: {"/proc/cpuinfo": cpuinfo}[path])
    assert provenance.has_bfloat16() is has
