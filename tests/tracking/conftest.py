"""A W&B client without a home, without a key, and with a server on this machine at most."""

import runpy
import socket
from pathlib import Path

import pytest

WandbServer = runpy.run_path(str(Path(__file__).with_name("wandb_server.py")))["WandbServer"]


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """No key, no login, no home, no settings; whatever W&B has begun is over afterwards."""
    wandb = pytest.importorskip("wandb")
    for name in ("API_KEY", "MODE", "IDENTITY_TOKEN_FILE", "SWEEP_ID", "RUN_ID", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked a question"))
    monkeypatch.setattr("getpass.getpass", lambda *args: pytest.fail("asked for a key"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def alone(nobody, monkeypatch):
    """Nobody may be called."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.fixture
def silent_server(nobody, monkeypatch):
    """A server with a key for it, but it does not listen yet; waits for it are short."""
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr("lrm_lightning.tracking.wandb.CONNECT_S", 2)
    yield server
    server.stop()
    assert server.unknown == []


@pytest.fixture
def server(silent_server):
    """A server that answers."""
    silent_server.start()
    return silent_server
