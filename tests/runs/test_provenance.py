"""Where a number came from."""

import json
import platform
from datetime import datetime

import torch

from lrm_lightning.runs import provenance


def test_versions_name_python_and_every_package(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["no-such-package"] == "not installed"


def test_git_state_of_a_checkout(monkeypatch):
    answers = {"rev-parse": "0123abcd", "status": ""}
    monkeypatch.setattr(provenance.Path, "exists", lambda self: True)
    monkeypatch.setattr(provenance, "_git", lambda folder, *words: answers[words[0]])
    assert provenance.git_state() == {"commit": "0123abcd", "dirty": False}
    answers["status"] = " M train.py"
    assert provenance.git_state() == {"commit": "0123abcd", "dirty": True}


def test_git_that_does_not_answer_is_not_called_clean(monkeypatch):
    monkeypatch.setattr(provenance.Path, "exists", lambda self: True)
    monkeypatch.setattr(provenance, "_git", lambda folder, *words: None)
    assert provenance.git_state() == {"commit": None, "dirty": None}


def test_git_state_of_a_wheel(monkeypatch):
    monkeypatch.setattr(provenance.Path, "exists", lambda self: False)
    assert provenance.git_state() == {"commit": None, "dirty": None}


def test_git_that_is_missing_or_hangs(monkeypatch, tmp_path):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(provenance.subprocess, "run", missing)
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
