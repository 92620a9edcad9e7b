"""A line for every value that makes no sense."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from lrm_lightning.data import DigitsDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.methods import AdversarialLogitPairing
from lrm_lightning.training import build


@pytest.fixture(scope="module")
def cfg(composed):
    """ALP on the digits."""
    return composed("config", "data=digits", "method=alp")


def _changed(cfg, key, value):
    changed = copy.deepcopy(cfg)
    OmegaConf.update(changed, key, value, merge=False, force_add=True)
    return changed


# what is given, what is said (all of it, or its beginning)
BAD = [
    ("seed", -1, "seed=-1 must be a whole number from 0 to 9223372036854775807"),
    ("seed", "a", "seed='a' must be a whole number from 0 to"),
    ("seed", 2**63, "seed=9223372036854775808 must be a whole number from 0 to"),
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
    ("model.depth", 0, "model.depth=0 must be a whole number from 1 to 1000"),
    ("model.depth", "five", "model.depth='five' must be a whole number from 1 to 1000"),
    ("model.widths", [16, 16, 32], "model.widths=[16, 16, 32] must be four"),
    ("data.batch_size", 0, "data.batch_size=0 must be a whole number >= 1"),
    ("data.eval_batch_size", 1.5, "data.eval_batch_size=1.5 must be a whole number >= 1"),
    ("data.val_size", -1, "data.val_size=-1 must be a whole number >= 0"),
    ("data.crop_padding", -1, "data.crop_padding=-1 must be a whole number >= 0"),
    ("data.flip", "no", "data.flip='no' must be true or false"),
    ("data.split_seed", -2, "data.split_seed=-2 must be a whole number >= 0"),
    ("attack.eps", 0, "attack.eps=0 must be a number > 0"),
    ("attack.eps", "8/0", "attack.eps='8/0' must be a number > 0"),
    ("attack.eps", "256/255", "attack.eps=1.003921568627451 must be a number > 0 and <= 1"),
    ("attack.step_size", -0.1, "attack.step_size=-0.1 must be a number > 0"),
    ("attack.steps", 0, "attack.steps=0 must be a whole number >= 1"),
    ("attack.norm", "l7", "attack.norm='l7' is unknown; choose one of: linf, l2"),
    ("attack.norm", ["l2"], "attack.norm=['l2'] is unknown; choose one of: linf, l2"),
    ("attack.loss", "hinge", "attack.loss='hinge' is unknown"),
    ("attack.bn_mode", "both", "attack.bn_mode='both' is unknown"),
    ("attack.restarts", 0, "attack.restarts=0 must be a whole number >= 1"),
    ("attack.random_start", "no", "attack.random_start='no' must be true or false"),
    ("optimizer.lr", 0, "optimizer.lr=0 must be a number > 0"),
    ("optimizer.lr", float("nan"), "optimizer.lr=nan must be a number > 0"),
    ("optimizer.momentum", 2, "optimizer.momentum=2 must be a number >= 0 and <= 1"),
    ("optimizer.weight_decay", -1, "optimizer.weight_decay=-1 must be a number >= 0"),
    ("optimizer.learning_rate", 1, "optimizer: SGD.__init__() got an unexpected keyword"),
    ("scheduler.warmup_epochs", -1, "scheduler.warmup_epochs=-1 must be a number >= 0"),
    ("scheduler.milestones", 100, "scheduler.milestones=100 must be a list of epochs"),
    ("scheduler.milestones", [0], "scheduler.milestones=0 must be a number > 0"),
    ("scheduler.gamma", 2, "scheduler.gamma=2 must be a number > 0 and <= 1"),
    ("scheduler.gama", 2, "scheduler: step_drops() got an unexpected keyword argument 'gama'"),
    (
        "scheduler",
        {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "_partial_": True, "T_max": 0},
        "scheduler: ",
    ),
    (
        "scheduler",
        {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "_partial_": True},
        "scheduler: ReduceLROnPlateau.step() missing 1 required positional argument: 'metrics'",
    ),
    (
        "callbacks",
        {"mine": 1},
        "callbacks.mine must be a mapping with _target_, the name of a class",
    ),
    ("callbacks", {"mine": {"_target_": "no.where"}}, "callbacks.mine: "),
    ("callbacks", {"mine": {"_target_": "torch.nn.Identity"}}, "callbacks.mine: torch.nn.Identity"),
    (
        "callbacks",
        {"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "a"}}
        | {"again": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "mode": "up"}},
        "callbacks.again: ",
    ),
    ("nonsense", 1, "nonsense has no effect; the nearest key that has one is "),
    ("ckpt_path", "x", "ckpt_path has no effect; the nearest key that has one is "),
    ("atack", {"eps": 1}, "atack.eps has no effect; the nearest key that has one is attack"),
    ("checkpoint.every_minute", 1, "checkpoint.every_minute has no effect; the nearest key that"),
    ("trainer.callbacks", [], "trainer.callbacks has no effect; the nearest key that has one is c"),
    ("trainer.max_epoch", 1, "trainer.max_epoch has no effect; the nearest key that has one is t"),
    ("trainer.precision", "bf16-true", "trainer.precision='bf16-true' is unknown; choose one of"),
    ("robust_accuracy.steps", 10, "robust_accuracy.steps=10 must be a list of step counts"),
    ("robust_accuracy.steps", [], "robust_accuracy.steps=[] must be a list of step counts"),
    ("robust_accuracy.steps", [0], "robust_accuracy.steps=0 must be a whole number >= 1"),
    ("robust_accuracy.test_steps", [1.5], "robust_accuracy.test_steps=1.5 must be a whole"),
    ("robust_accuracy.every_n_epochs", 0, "robust_accuracy.every_n_epochs=0 must be a whole"),
    ("robust_accuracy.n_images", 0, "robust_accuracy.n_images=0 must be a whole number >= 1"),
    ("robust_accuracy.test_n_images", "all", "robust_accuracy.test_n_images='all' must be a"),
    ("trainer.max_epochs", 0, "trainer.max_epochs=0 must be a whole number >= 1"),
    ("trainer.log_every_n_steps", "--", "trainer.log_every_n_steps='--' must be Optional[int]"),
    ("trainer.log_every_n_steps", 0, "trainer.log_every_n_steps=0 must be a whole number >= 1"),
    ("trainer.max_steps", 3, "trainer.max_steps=3 would end a training before its checkpoint"),
    ("trainer.max_time", "00:00:01:00", "trainer.max_time='00:00:01:00' would end a training"),
    ("trainer.check_val_every_n_epoch", 2, "trainer.check_val_every_n_epoch=2 must be 1; robust"),
    ("trainer.val_check_interval", 0.5, "trainer.val_check_interval=0.5 must be 1.0; robust_acc"),
    ("logger", None, "logger=None must be a mapping; choose one of: csv, many, mlflow"),
    ("checkpoint", [1], "checkpoint=[1] must be a mapping"),
    ("logger.wandb.project", "a/b?c", "logger.wandb: Invalid project name 'a/b?c'"),
    ("logger.wandb.tags", ["a" * 65], "logger.wandb: run_tags=['aaa"),
    ("logger.wandb.colour", "red", "logger.wandb: got an unexpected keyword argument 'colour'"),
    ("sweep", [1, 2], "sweep=[1, 2] must be text"),
    ("runs_dir", None, "runs_dir=None must be text"),
    ("trainer.max_epochs", None, "trainer.max_epochs=None must be a whole number >= 1"),
    ("checkpoint.select", "first", "checkpoint.select='first' is unknown; choose one of: last"),
    ("checkpoint.every_minutes", 0, "checkpoint.every_minutes=0 must be a number > 0"),
    ("logger.wandb.mode", "dryrun", "logger.wandb: mode='dryrun' is unknown; choose one of: auto"),
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
        build.validate(_changed(cfg, key, value))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_good_values_pass(cfg):
    build.validate(cfg)
    for key, value in (
        ("seed", 2**63 - 1),
        ("method.smoothing", 0.9),
        ("robust_accuracy.n_images", None),
        ("scheduler.milestones", []),
        ("scheduler.warmup_epochs", 0.5),
        ("trainer.gradient_clip_val", 1.0),
        ("callbacks", {"rate": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"}}),
        ("checkpoint.select", "best"),
        ("logger.wandb.checkpoint", True),
    ):
        build.validate(_changed(cfg, key, value))


def test_best_weights_need_something_to_choose_by(cfg):
    best = _changed(cfg, "checkpoint.select", "best")
    for steps, monitor in (([10], "val/acc/pgd5"), ([5], "val/acc/pgd10"), ([10], "val/loss")):
        bad = _changed(best, "robust_accuracy.steps", steps)
        bad.checkpoint.monitor = monitor
        with pytest.raises(UserError, match=r"^checkpoint\.monitor='.*' is unknown; choose one of"):
            build.validate(bad)
    with pytest.raises(UserError, match=r"^checkpoint\.select='best' needs robust_accuracy\.every"):
        build.validate(_changed(best, "robust_accuracy.every_n_epochs", 2))


def test_best_weights_need_a_validation_split(cfg):
    best = _changed(_changed(cfg, "checkpoint.select", "best"), "data.val_size", 0)
    message = r"^checkpoint\.select=best needs a validation split; data\.val_size is 0$"
    with pytest.raises(UserError, match=message):
        build.validate(best)


def test_a_callback_that_watches_validation_needs_a_split(composed):
    watching = composed("config", "experiment=short", "callbacks=early_stopping")
    message = r"^callbacks: val/acc/pgd10 needs a validation split; data\.val_size is 0$"
    with pytest.raises(UserError, match=message):
        build.validate(watching)
    split = _changed(watching, "data.val_size", 5000)
    build.validate(split)
    with pytest.raises(UserError, match=r"^callbacks: val/acc/pgd10 needs robust_accuracy"):
        build.validate(_changed(split, "robust_accuracy.every_n_epochs", 2))
    build.validate(_changed(watching, "callbacks.early_stopping.monitor", "train/loss"))


@pytest.mark.parametrize("experiment", ["demo", "short", "robustbench", "cpu", "paper"])
def test_an_experiment_leaves_another_optimizer_and_schedule_as_they_are(experiment, composed):
    chosen = composed("config", f"experiment={experiment}", "optimizer=adamw", "scheduler=cosine")
    plain = composed("config", "optimizer=adamw", "scheduler=cosine")
    assert chosen.optimizer == plain.optimizer
    assert chosen.scheduler.keys() == plain.scheduler.keys()
    build.validate(chosen)


@pytest.mark.parametrize("scheduler", ["cosine", "one_cycle", "step_drops"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimizers_and_schedules_pass(optimizer, scheduler, composed):
    groups = (f"optimizer={optimizer}", f"scheduler={scheduler}")
    build.validate(composed("config", "data=digits", *groups))


def test_a_key_that_others_refer_to_is_no_mistake(cfg):
    build.validate(_changed(_changed(cfg, "my_rate", 0.3), "optimizer.lr", "${my_rate}"))


def test_unknown_keyword_of_a_component(cfg):
    with pytest.raises(UserError, match=r"^method: .*unexpected keyword argument 'colour'"):
        build.validate(_changed(cfg, "method.colour", "red"))


def test_validation_reads_no_data_and_makes_no_weights(cfg, monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "load", lambda self: pytest.fail("read the data"))
    monkeypatch.setattr(DigitsDataModule, "setup", lambda self, stage=None: pytest.fail("setup"))
    before = torch.get_rng_state()
    huge = _changed(cfg, "model.widths", [16, 10**5, 10**5, 10**5])  # terabytes, were it built
    build.validate(huge)
    assert torch.equal(torch.get_rng_state(), before)


def test_components_get_their_settings(cfg):
    cfg = _changed(cfg, "method.alpha", 0.25)
    cfg = _changed(cfg, "attack.eps", 0.06)
    cfg = _changed(cfg, "optimizer.lr", 0.3)
    cfg = _changed(cfg, "seed", 11)
    data = build.build_datamodule(cfg)
    defense = build.build_defense(cfg, torch.nn.Identity(), 10)
    callback = build.build_robust_accuracy(cfg)
    assert (data.seed, data.batch_size) == (11, cfg.data.batch_size)
    assert isinstance(defense, AdversarialLogitPairing)
    assert (defense.alpha, defense.name, defense.num_classes) == (0.25, "alp", 10)
    assert defense.attack.eps == callback.attack.eps == 0.06
    optimizer = build.build_defense(cfg, torch.nn.Linear(1, 1), 10).make_optimizer()
    assert optimizer.defaults["lr"] == 0.3
    assert build.build_network(cfg, 7).linear.out_features == 7
