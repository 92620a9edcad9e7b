"""A W&B client without a home, without a key, and with a server on this machine at most."""

import runpy
import socket
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.interpreter import warm_forks

WandbServer = runpy.run_path(str(Path(__file__).with_name("wandb_server.py")))["WandbServer"]


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """No key, no login, no home, no settings; whatever W&B has begun is over afterwards."""
    wandb = pytest.importorskip("wandb")
    for name in ("API_KEY", "MODE", "IDENTITY_TOKEN_FILE", "SWEEP_ID", "RUN_ID", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    warm_forks()
    forkserver.ensure_running()  # later it would keep the environment below for other tests too
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
    with _server(monkeypatch) as server:
        start, wait = server.start, "lrm_lightning.tracking.wandb.CONNECT_S"
        monkeypatch.setattr(wait, 2)
        # Once it listens, it is given time: other tests run beside this one.
        server.start = lambda: (monkeypatch.setattr(wait, 60), start())
        yield server


@contextmanager
def _server(monkeypatch):
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    yield server
    server.stop()
    assert server.unknown == []


@pytest.fixture
def server(nobody, monkeypatch):
    """A server that answers."""
    with _server(monkeypatch) as server:
        server.start()
        yield server
