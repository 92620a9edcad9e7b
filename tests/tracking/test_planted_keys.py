"""Keys that lie where W&B looks for them are in no file that a run writes, and it says none."""

import os
import warnings

import pytest
from omegaconf import open_dict
from requests.utils import get_netrc_auth

from lrm_lightning.training.lightning_internals import quieten
from lrm_lightning.training.run import train

RUN = (
    "method=regular", "data=digits", "data.batch_size=16", "data.val_size=20",
    "data.eval_batch_size=20", "model=resnet_tiny", "model.widths=[4,4,4,4]", "trainer=cpu",
    "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_test_batches=1",
    "robust_accuracy.steps=[1]", "robust_accuracy.test_steps=[1]", "logger=wandb",
)  # fmt: skip
KEYS = {
    name: letter * 40 for name, letter in (("environment", "a"), ("netrc", "b"), ("settings", "c"))
}


def _plant(kind, tmp_path, monkeypatch):
    key = KEYS[kind]
    if kind == "environment":
        monkeypatch.setenv("WANDB_API_KEY", key)
    elif kind == "netrc":
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {key}\n")
        (tmp_path / "netrc").chmod(0o600)
    else:
        (tmp_path / "config").mkdir()
        (tmp_path / "config/settings").write_text(f"[default]\napi_key = {key}\n")
    return key


@pytest.mark.slow
@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_in_nothing_that_a_run_leaves(
    kind, alone, composed, tmp_path, monkeypatch, capfd, caplog
):
    import wandb

    key = _plant(kind, tmp_path, monkeypatch)
    if kind == "netrc":
        assert get_netrc_auth(os.environ["WANDB_BASE_URL"]) == ("user", key)
    else:
        assert wandb.setup().settings.api_key == key
    wandb.teardown()
    cfg = composed("config", *RUN, f"runs_dir={tmp_path}/runs")
    with open_dict(cfg):
        cfg.logger.wandb.mode = "offline"
    folder = tmp_path / "runs/regular"
    with warnings.catch_warnings():
        quieten()
        train(cfg, folder)
    written = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".wandb" for path in written)
    assert len(written) > 8
    assert [path for path in written if key.encode() in path.read_bytes()] == []
    said = capfd.readouterr()
    assert key not in said.out + said.err + caplog.text
