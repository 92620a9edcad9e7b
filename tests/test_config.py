"""Identity of a run, and a line for every value that makes no sense."""

import copy
import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lrm_lightning import config
from lrm_lightning.data import DigitsDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.methods import AdversarialLogitPairing


def _compose(*overrides):
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture(scope="module")
def _composed():
    return _compose("data=digits", "method=alp")


@pytest.fixture(scope="module")
def cifar10():
    """PGD training on CIFAR-10: the defaults."""
    return _compose()


@pytest.fixture
def cfg(_composed):
    """ALP on the digits, to be changed at will."""
    return copy.deepcopy(_composed)


def _changed(cfg, key, value):
    changed = copy.deepcopy(cfg)
    OmegaConf.update(changed, key, value, merge=False, force_add=True)
    return changed


# what is given, what is said (all of it, or its beginning)
BAD = [
    ("seed", -1, "seed=-1 must be a whole number >= 0"),
    ("seed", "a", "seed='a' must be a whole number >= 0"),
    ("rerun", "no", "rerun='no' must be true or false"),
    (
        "method.smoothing",
        1.7,
        "method.smoothing=1.7 must be a number >= 0 and <= 0.9 (1 - 1/num_classes)",
    ),
    ("method.smoothing", None, "method.smoothing=None must be a number"),
    ("method.squeeze_weight", -1, "method.squeeze_weight=-1 must be a number >= 0"),
    ("method.mixing", "cutmix", "method.mixing='cutmix' is unknown; choose one of: none, mixup"),
    ("method.mixing", None, "method.mixing=None is unknown"),
    ("method.mixing_alpha", 0, "method.mixing_alpha=0 must be a number > 0"),
    ("method.alpha", 2, "method.alpha=2 must be a number >= 0 and <= 1"),
    ("method.pairing_weight", "0.5x", "method.pairing_weight='0.5x' must be a number >= 0"),
    ("method.pairing_distance", "l3", "method.pairing_distance='l3' is unknown"),
    ("method.pairing_distance", ["l2"], "method.pairing_distance=['l2'] is unknown"),
    ("method.epochs", 0, "method.epochs=0 must be a whole number >= 1"),
    ("method._target_", "lrm_lightning.methods.nothing", "method: "),
    ("model.depth", 0, "model.depth=0 must be a whole number >= 1"),
    ("model.depth", "five", "model.depth='five' must be a whole number >= 1"),
    ("model.widths", [16, 16, 32], "model.widths=[16, 16, 32] must be four"),
    ("data.batch_size", 0, "data.batch_size=0 must be a whole number >= 1"),
    ("data.eval_batch_size", 1.5, "data.eval_batch_size=1.5 must be a whole number >= 1"),
    ("data.val_size", -1, "data.val_size=-1 must be a whole number >= 0"),
    ("data.crop_padding", -1, "data.crop_padding=-1 must be a whole number >= 0"),
    ("data.flip", "no", "data.flip='no' must be true or false"),
    ("data.split_seed", -2, "data.split_seed=-2 must be a whole number >= 0"),
    ("attack.eps", 0, "attack.eps=0 must be a number > 0"),
    ("attack.eps", "8/255", "attack.eps='8/255' must be a number > 0"),
    ("attack.step_size", -0.1, "attack.step_size=-0.1 must be a number > 0"),
    ("attack.steps", 0, "attack.steps=0 must be a whole number >= 1"),
    ("attack.norm", "l7", "attack.norm='l7' is unknown; choose one of: linf, l2"),
    ("attack.norm", ["l2"], "attack.norm=['l2'] is unknown; choose one of: linf, l2"),
    ("attack.loss", "dlr", "attack.loss='dlr' is unknown"),
    ("attack.bn_mode", "both", "attack.bn_mode='both' is unknown"),
    ("attack.restarts", 0, "attack.restarts=0 must be a whole number >= 1"),
    ("attack.random_start", "no", "attack.random_start='no' must be true or false"),
    ("optimizer.lr", 0, "optimizer.lr=0 must be a number > 0"),
    ("optimizer.lr", float("nan"), "optimizer.lr=nan must be a number > 0"),
    ("optimizer.momentum", 1, "optimizer.momentum=1 must be a number >= 0 and < 1"),
    ("optimizer.nesterov", "yes", "optimizer.nesterov='yes' must be true or false"),
    ("optimizer.weight_decay", -1, "optimizer.weight_decay=-1 must be a number >= 0"),
    ("optimizer.schedule", "cosine", "optimizer.schedule='cosine' is unknown"),
    ("optimizer.warmup_epochs", -1, "optimizer.warmup_epochs=-1 must be a number >= 0"),
    ("optimizer.milestones", 100, "optimizer.milestones=100 must be a list of epochs"),
    ("optimizer.milestones", [0], "optimizer.milestones=0 must be a number > 0"),
    ("optimizer.gamma", 2, "optimizer.gamma=2 must be a number > 0 and <= 1"),
    ("robust_accuracy.steps", 10, "robust_accuracy.steps=10 must be a list of step counts"),
    ("robust_accuracy.steps", [], "robust_accuracy.steps=[] must be a list of step counts"),
    ("robust_accuracy.steps", [0], "robust_accuracy.steps=0 must be a whole number >= 1"),
    ("robust_accuracy.test_steps", [1.5], "robust_accuracy.test_steps=1.5 must be a whole"),
    ("robust_accuracy.every_n_epochs", 0, "robust_accuracy.every_n_epochs=0 must be a whole"),
    ("robust_accuracy.n_images", 0, "robust_accuracy.n_images=0 must be a whole number >= 1"),
    ("robust_accuracy.test_n_images", "all", "robust_accuracy.test_n_images='all' must be a"),
    ("trainer.max_epochs", 0, "trainer.max_epochs=0 must be a whole number >= 1"),
    ("trainer.max_epochs", None, "trainer.max_epochs=None must be a whole number >= 1"),
    ("checkpoint.select", "first", "checkpoint.select='first' is unknown; choose one of: last"),
    ("checkpoint.every_minutes", 0, "checkpoint.every_minutes=0 must be a number > 0"),
    ("logger.mode", "dryrun", "logger.mode='dryrun' is unknown; choose one of: auto, online"),
    ("logger.wandb", "no", "logger.wandb='no' must be true or false"),
    ("logger.checkpoint", "yes", "logger.checkpoint='yes' must be true or false"),
    (
        "method.smoothing",
        "???",
        "config: Missing mandatory value: smoothing full_key: method.smoothing",
    ),
    ("method.smoothing", "${nothing.here}", "config: Interpolation key 'nothing.here' not found"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD, ids=lambda each: str(each)[:40])
def test_bad_value_is_one_line_that_names_the_key(key, value, message, cfg):
    with pytest.raises(UserError) as error:
        config.validate(_changed(cfg, key, value))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_good_values_pass(cfg):
    config.validate(cfg)
    for key, value in (
        ("method.smoothing", 0.9),
        ("robust_accuracy.n_images", None),
        ("optimizer.milestones", []),
        ("optimizer.warmup_epochs", 0.5),
        ("checkpoint.select", "best"),
        ("data.val_size", 0),
        ("logger.wandb", False),
    ):
        config.validate(_changed(cfg, key, value))


def test_best_weights_need_something_to_choose_by(cfg):
    best = _changed(cfg, "checkpoint.select", "best")
    for steps, monitor in (([10], "val/acc/pgd5"), ([5], "val/acc/pgd10"), ([10], "val/loss")):
        bad = _changed(best, "robust_accuracy.steps", steps)
        bad.checkpoint.monitor = monitor
        with pytest.raises(UserError, match=r"^checkpoint\.monitor='.*' is unknown; choose one of"):
            config.validate(bad)
    with pytest.raises(UserError, match=r"^data\.val_size=0 must be a whole number >= 1"):
        config.validate(_changed(best, "data.val_size", 0))
    with pytest.raises(UserError, match=r"^checkpoint\.select='best' needs robust_accuracy\.every"):
        config.validate(_changed(best, "robust_accuracy.every_n_epochs", 2))


def test_unknown_keyword_of_a_component(cfg):
    with pytest.raises(UserError, match=r"^method: .*unexpected keyword argument 'colour'"):
        config.validate(_changed(cfg, "method.colour", "red"))


def test_validation_reads_no_data_and_makes_no_weights(cfg, monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "load", lambda self: pytest.fail("read the data"))
    monkeypatch.setattr(DigitsDataModule, "setup", lambda self, stage=None: pytest.fail("setup"))
    before = torch.get_rng_state()
    huge = _changed(cfg, "model.widths", [16, 10**5, 10**5, 10**5])  # terabytes, were it built
    config.validate(huge)
    assert torch.equal(torch.get_rng_state(), before)


def test_components_get_their_settings(cfg):
    cfg = _changed(cfg, "method.alpha", 0.25)
    cfg = _changed(cfg, "attack.eps", 0.06)
    cfg = _changed(cfg, "optimizer.lr", 0.3)
    cfg = _changed(cfg, "seed", 11)
    data = config.build_datamodule(cfg)
    defense = config.build_defense(cfg, torch.nn.Identity(), 10)
    callback = config.build_robust_accuracy(cfg)
    assert (data.seed, data.batch_size) == (11, cfg.data.batch_size)
    assert isinstance(defense, AdversarialLogitPairing)
    assert (defense.alpha, defense.name, defense.num_classes) == (0.25, "alp", 10)
    assert defense.attack.eps == callback.attack.eps == 0.06
    assert defense.sgd.lr == 0.3
    assert config.build_network(cfg, 7).linear.out_features == 7


def test_run_id_is_eight_digits_and_stable(cfg):
    name = config.run_id(cfg)
    assert re.fullmatch(r"[0-9a-f]{8}", name)
    assert config.run_id(_compose("method=alp", "data=digits")) == name


def test_run_id_does_not_depend_on_the_order_of_keys(cfg):
    def reverse(node):
        if isinstance(node, dict):
            return {key: reverse(node[key]) for key in reversed(node)}
        return node

    reversed_cfg = OmegaConf.create(reverse(OmegaConf.to_container(cfg, resolve=False)))
    assert list(reversed_cfg) == list(cfg)[::-1]
    assert config.run_id(reversed_cfg) == config.run_id(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("runs_dir", "elsewhere"),
        ("rerun", True),
        ("sweep", "smoothing"),
        ("logger.mode", "offline"),
        ("logger.project", "another"),
        ("data.root", "/data"),
        ("data.download", False),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 4),
        ("trainer.num_nodes", 2),
        ("trainer.strategy", "ddp"),
        ("trainer.log_every_n_steps", 1),
        ("checkpoint.every_minutes", 60),
    ],
)
def test_run_id_ignores_where_and_how_it_runs(key, value, cifar10):
    assert config.run_id(_changed(cifar10, key, value)) == config.run_id(cifar10)


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
        ("robust_accuracy.test_steps", [5]),
        ("checkpoint.select", "best"),
    ],
)
def test_run_id_changes_with_what_changes_the_result(key, value, cifar10):
    assert config.run_id(_changed(cifar10, key, value)) != config.run_id(cifar10)


def test_identity_resolves_what_is_given_by_reference(cfg):
    identity = config.identity(cfg)
    assert identity["trainer"]["max_epochs"] == cfg.method.epochs
    assert config.run_id(_changed(cfg, "trainer.max_epochs", 101)) == config.run_id(cfg)
    assert "logger" not in identity
    assert "hydra" not in config.plain(cfg)


def test_plain_is_plain(cfg):
    def walk(value):
        if isinstance(value, dict):
            assert type(value) is dict
            for key, each in value.items():
                assert type(key) is str
                walk(each)
        elif isinstance(value, list):
            assert type(value) is list
            for each in value:
                walk(each)
        else:
            assert value is None or type(value) in (bool, int, float, str)

    walk(config.plain(cfg))


def test_resolver_names_the_run_inside_the_configuration(cfg):
    named = _changed(cfg, "hydra", {"dir": "${seed}/${run_id:}"})
    assert named.hydra.dir == f"0/{config.run_id(cfg)}"


def test_conf_dir_has_the_primary_config():
    assert (config.conf_dir() / "config.yaml").is_file()
