"""W&B without a key: offline, without a question and without a network."""

import re
import socket
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lrm_lightning.loggers import finish_wandb, wandb_logger
from lrm_lightning.loggers import wandb as module


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No key, no login, no home, no network."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked a question"))
    monkeypatch.setattr("getpass.getpass", lambda *args: pytest.fail("asked for a key"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield
        finish_wandb()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()


def _cfg(mode="auto", **changed):
    logger = {"wandb": True, "project": "tests", "entity": None, "mode": mode, "tags": ["a"]}
    return OmegaConf.create(
        {
            "logger": logger,
            "method": {"name": "alp"},
            "data": {"name": "digits"},
            "sweep": "table1",
            **changed,
        }
    )


def test_auto_is_offline_without_a_key(alone):
    assert module._mode("auto") == "offline"


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_other_modes_are_taken_at_their_word(mode, alone):
    assert module._mode(mode) == mode


def test_auto_is_online_with_a_key(alone, monkeypatch):
    wandb = pytest.importorskip("wandb")
    asked = []

    def login(**settings):
        asked.append(settings)
        return True

    monkeypatch.setattr(wandb, "login", login)
    assert module._mode("auto") == "online"
    assert asked == [{"prompt": False}]


def test_what_the_run_is_called(alone, tmp_path, monkeypatch):
    given = {}

    def logger(**settings):
        given.update(settings)
        return SimpleNamespace(_wandb_init={})

    monkeypatch.setattr(module, "WandbLogger", logger)
    wandb_logger(_cfg(), tmp_path, {"seed": 7}, "0123abcd")
    assert given["id"] == "0123abcd"
    assert given["name"] == "alp-0123abcd"
    assert given["group"] == "table1"
    assert given["job_type"] == "alp"
    assert given["tags"] == ["a", "digits"]
    assert given["resume"] == "allow"
    assert given["config"] == {"seed": 7}
    assert given["save_dir"] == str(tmp_path)


def test_offline_is_said_in_one_line(alone, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "WandbLogger", lambda **_: SimpleNamespace(_wandb_init={}))
    wandb_logger(_cfg(), tmp_path, {}, "0123abcd")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("W&B: offline")
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in line


@pytest.mark.slow
def test_an_offline_run_is_on_disk_when_it_is_finished(alone, tmp_path):
    wandb = pytest.importorskip("wandb")
    logger = wandb_logger(_cfg(), tmp_path, {"seed": 7}, "0123abcd")
    logger.log_metrics({"val/acc/clean": 0.5}, step=1)
    assert wandb.run.id == "0123abcd"
    finish_wandb()
    assert wandb.run is None
    wandb.teardown()  # as at the end of a process: W&B's own process closes its files
    (file,) = (tmp_path / "wandb").glob("offline-run-*-0123abcd/run-0123abcd.wandb")
    content = file.read_bytes()
    assert content.startswith(b":W&B")
    assert b"val/acc/clean" in content, re.findall(rb"[ -~]{4,}", content)
    finish_wandb()  # a second time is no mistake


@pytest.mark.slow
def test_disabled_leaves_nothing(alone, tmp_path, capsys):
    logger = wandb_logger(_cfg("disabled"), tmp_path, {}, "0123abcd")
    logger.log_metrics({"val/acc/clean": 0.5}, step=1)
    finish_wandb()
    assert not list(tmp_path.rglob("*.wandb"))
    assert "offline" not in capsys.readouterr().out


def test_finishing_without_a_run_does_nothing():
    finish_wandb()
