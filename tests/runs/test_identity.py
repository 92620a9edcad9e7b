"""What of a configuration identifies a run."""

import copy
import json
import re

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lrm_lightning.runs import identity


@pytest.fixture(scope="module")
def cfg(composed):
    """PGD training on CIFAR-10: the defaults."""
    return composed("config")


def _changed(cfg, key, value):
    changed = copy.deepcopy(cfg)
    OmegaConf.update(changed, key, value, merge=False, force_add=True)
    return changed


def test_run_id_is_eight_digits_and_stable(cfg, composed):
    name = identity.run_id(cfg)
    assert re.fullmatch(r"[0-9a-f]{8}", name)
    assert identity.run_id(composed("config", "method=pgd")) == name


def test_run_id_does_not_depend_on_the_order_of_keys(cfg):
    reversed_cfg = OmegaConf.create({key: cfg[key] for key in reversed(list(cfg))})
    assert identity.run_id(reversed_cfg) == identity.run_id(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("runs_dir", "elsewhere"),
        ("rerun", True),
        ("sweep", "smoothing"),
        ("logger.wandb.mode", "offline"),
        ("logger.wandb.project", "another"),
        ("data.root", "/data"),
        ("data.download", False),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", [3]),
        ("trainer.strategy", "ddp"),
        ("trainer.sync_batchnorm", True),
        ("attack.engine", "reference"),
        ("callbacks", {"rate": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"}}),
        ("trainer.log_every_n_steps", 1),
        ("checkpoint.every_minutes", 60),
    ],
)
def test_run_id_ignores_where_and_how_it_runs(key, value, cfg):
    assert identity.run_id(_changed(cfg, key, value)) == identity.run_id(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("method.smoothing", 0.1),
        ("method.name", "other"),
        ("method._target_", "lrm_lightning.methods.alp.AdversarialLogitPairing"),
        ("model.depth", 1),
        ("model.widths", [16, 16, 32, 128]),
        ("data.batch_size", 32),
        ("data.split_seed", 1),
        ("data.require_official", False),
        ("attack.eps", 0.031),
        ("optimizer.lr", 0.05),
        ("trainer.max_epochs", 3),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.limit_train_batches", 2),
        ("trainer.devices", 4),  # which don't synchronise batch norm
        ("robust_accuracy.test_steps", [5]),
        ("checkpoint.select", "best"),
        ("scheduler.gamma", 0.2),
        ("callbacks", {"mine": {"_target_": "my.Callback"}}),
    ],
)
def test_run_id_changes_with_what_changes_the_result(key, value, cfg):
    assert identity.run_id(_changed(cfg, key, value)) != identity.run_id(cfg)


@pytest.mark.parametrize(
    ("typed", "number"),
    [("8/255", 8 / 255), ("0.5/255", 0.5 / 255), (" 16 / 255 ", 16 / 255), ("8/0", "8/0")],
)
def test_a_fraction_of_pixels_is_its_number_and_kept_as_typed(typed, number, cfg):
    fraction = _changed(_changed(cfg, "attack.eps", typed), "data.name", "1/2")
    other = _changed(_changed(cfg, "attack.eps", number), "data.name", "1/2")
    assert identity.run_id(fraction) == identity.run_id(other)
    assert identity.plain(fraction)["attack"]["eps"] == typed
    assert identity.identity(fraction)["attack"]["eps"] == number


def test_devices_that_synchronise_batch_norm_are_one_run(cfg, composed):
    four = ("config", "trainer=ddp", "trainer.devices=4")
    assert identity.run_id(composed(*four)) == identity.run_id(cfg)
    apart = composed(*four, "trainer.sync_batchnorm=false")
    assert identity.run_id(apart) != identity.run_id(cfg)


def test_identity_resolves_what_is_given_by_reference(cfg):
    found = identity.identity(cfg)
    assert found["trainer"]["max_epochs"] == cfg.method.epochs
    assert identity.run_id(_changed(cfg, "trainer.max_epochs", 101)) == identity.run_id(cfg)
    assert "logger" not in found
    assert "hydra" not in identity.plain(cfg)


def test_plain_is_plain(cfg):
    plain = identity.plain(cfg)
    assert json.loads(json.dumps(plain)) == yaml.safe_load(yaml.safe_dump(plain)) == plain


@pytest.mark.parametrize("name", ["../..", "..", "a/b", "/tmp/x"])
@pytest.mark.parametrize("key", ["data.name", "method.name"])
def test_a_name_that_leads_out_of_runs_dir_names_no_directory(cfg, key, name):
    named = _changed(_changed(cfg, key, name), "hydra", {"dir": "runs/${run_id:}"})
    with pytest.raises(InterpolationResolutionError, match=f"{key}={re.escape(name)} must be usab"):
        _ = named.hydra.dir


def test_resolver_names_the_run_inside_the_configuration(cfg):
    named = _changed(cfg, "hydra", {"dir": "${seed}/${run_id:}"})
    assert named.hydra.dir == f"0/{identity.run_id(cfg)}"
