"""Every YAML file composes, makes sense, and says what the class it names says."""

import functools
import inspect
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_object
from omegaconf import OmegaConf

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import Batch
from lrm_lightning.data.batch import Draws
from lrm_lightning.methods import Defense, PGDTraining, Regular
from lrm_lightning.runs import identity
from lrm_lightning.training import build

CONF = identity.conf_dir()
SWEEPS = Path(__file__).parents[1] / "sweeps"
STAND_INS = Path(__file__).parent / "stand_ins"  # for networks of packages that need not be there
GROUPS = (
    *("method", "model", "data", "attack", "optimizer", "scheduler"),
    *("trainer", "callbacks", "logger", "experiment", "debug"),
)
SHARED_KNOBS = {
    *("name", "epochs", "smoothing", "squeeze_weight", "mixing", "mixing_alpha", "input_noise"),
}
GIVEN_BY_THE_PROGRAM = {"network", "num_classes", "attack", "optimizer", "scheduler"}
# Methods that are a class with one default changed.
TURNED = {
    "label_smoothing": {"smoothing": 0.75},
    "logit_squeezing": {"squeeze_weight": 0.05},
    "mixup": {"mixing": "mixup"},
    "vh_mixup": {"mixing": "vh_mixup"},
}
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def _compose(*overrides, name="config", folder=CONF, hydra=False):
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=hydra)


@functools.cache
def _method(name):
    return OmegaConf.to_container(_compose(f"+method={name}", name=None).method)


def test_there_are_the_papers_defences_and_those_of_the_field():
    assert {
        "regular",
        "label_smoothing",
        "logit_squeezing",
        "clean_logit_pairing",
        "mixup",
        "vh_mixup",
        "pgd",
        "alp",
        "lrm",
    } <= set(METHODS)
    assert {"trades", "mart", "ikl", "gat", "nuat"} <= set(METHODS)


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))],
)
def test_option_composes_and_validates(group, option, tmp_path, monkeypatch):
    own = []
    if group == "model":
        monkeypatch.syspath_prepend(STAND_INS)
    if option == "arrays":  # a file of the user's, which decides on the network
        x, y = np.zeros((4, 9, 7), np.uint8), np.arange(4)
        np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        own = [f"data.root={tmp_path / 'own.npz'}"]
    cfg = _compose(f"{group}={option}", *own)
    build.validate(cfg)
    identity.run_id(cfg)


def _expand(params):
    keys = list(params)
    choices = [re.split(r",(?![^\[]*\])", str(params[key])) for key in keys]
    for combination in itertools.product(*choices):
        yield [f"{key}={value}" for key, value in zip(keys, combination, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_job_of_a_sweep_validates_and_is_another_run(path):
    search = f"hydra.searchpath=[file://{CONF}]"
    cfg = _compose(search, name=path.stem, folder=SWEEPS, hydra=True)
    assert cfg.hydra.mode.name == "MULTIRUN"
    jobs = list(_expand(OmegaConf.to_container(cfg.hydra.sweeper.params)))
    assert len(jobs) > 1
    names = set()
    for job in jobs:
        one = _compose(search, *job, name=path.stem, folder=SWEEPS)
        assert one.sweep == path.stem
        build.validate(one)
        names.add(identity.run_id(one))
    assert len(names) == len(jobs)


def test_sweeps_hold_the_values_of_the_paper():
    def params(name):
        return OmegaConf.load(SWEEPS / f"{name}.yaml").hydra.sweeper.params

    assert params("table1").method == "regular,label_smoothing,pgd,alp,lrm"
    smoothing = {float(s) for s in params("smoothing")["method.smoothing"].split(",")}
    assert {0.0, 0.01, 0.5, 0.75} <= smoothing
    assert all(0 <= s <= 0.9 for s in smoothing)


def test_the_leaderboard_has_every_method():
    methods = OmegaConf.load(SWEEPS / "leaderboard.yaml").hydra.sweeper.params.method.split(",")
    assert sorted(methods) == sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def _tiny_batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 32, 32, generator=generator)
    targets = (20 * torch.rand(4, 10, generator=generator)).softmax(1)
    draws = Draws(seed=0, epoch=0, step=0, size=4, first_row=0, end_row=4)
    return Batch(x, targets, targets.argmax(1), torch.arange(4), draws)


@pytest.mark.parametrize("method", METHODS)
def test_method_trains_every_parameter(method):
    cfg = _compose(
        f"method={method}",
        "model=resnet_tiny",
        "model.widths=[4,4,4,4]",
        "attack.steps=1",
    )
    torch.manual_seed(0)
    defense = build.build_defense(cfg, build.build_network(cfg, 10), 10)
    assert isinstance(defense, Defense)
    assert defense.name == method
    terms = defense.loss_terms(_tiny_batch())
    loss = torch.stack(list(terms.values())).sum()
    assert loss.isfinite()
    loss.backward()
    for name, parameter in defense.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def _keywords(defense):
    """Keyword to default, of a defence's constructor and those that it hands keywords on to."""
    found = {}
    for cls in inspect.getmro(defense):
        if issubclass(cls, Defense) and "__init__" in vars(cls):
            for name, parameter in inspect.signature(cls.__init__).parameters.items():
                if parameter.kind is not parameter.VAR_KEYWORD and name != "self":
                    found.setdefault(name, parameter.default)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_method_file_is_its_constructor(method):
    settings = dict(_method(method))
    keywords = _keywords(get_class(settings.pop("_target_")))
    assert settings.keys() == keywords.keys() - GIVEN_BY_THE_PROGRAM
    assert settings.pop("name") == method
    assert settings == {key: keywords[key] for key in settings} | TURNED.get(method, {})


@pytest.mark.parametrize("method", METHODS)
def test_shared_knobs_are_in_every_method(method):
    assert _method(method).keys() >= SHARED_KNOBS


def test_every_defence_has_a_file():
    def subclasses(cls):
        return {cls}.union(*(subclasses(each) for each in cls.__subclasses__()))

    ours = {each for each in subclasses(Defense) if each.__module__.startswith("lrm_lightning.")}
    named = {get_class(_method(method)["_target_"]) for method in METHODS}
    assert ours - {Defense} == named


@pytest.mark.parametrize(
    ("overrides", "node"),
    [
        ([], "scheduler"),
        (["scheduler=one_cycle"], "scheduler"),
        (["attack=linf"], "attack"),
        (["data=cifar10"], "data"),
        (["data=digits"], "data"),
        (["data=arrays", "data.root=null"], "data"),
        ([], "robust_accuracy"),
    ],
)
def test_defaults_in_the_config_are_those_of_the_class(overrides, node):
    settings = OmegaConf.to_container(_compose(*overrides)[node])
    defaults = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(
            get_object(settings["_target_"])
        ).parameters.items()
    }
    compared = settings.keys() & defaults.keys()
    assert compared
    assert {name: settings[name] for name in compared} == {
        name: defaults[name] for name in compared
    }


def test_optimizer_of_the_config_is_the_default_of_a_defence():
    default = Regular(torch.nn.Linear(1, 1)).optimizer
    config = OmegaConf.to_container(_compose().optimizer)
    assert get_object(config.pop("_target_")) is default.func
    assert config.pop("_partial_")
    assert config == default.keywords | {"nesterov": False}


def test_adversarial_methods_train_for_101_epochs_and_the_others_for_200():
    classes = {name: get_object(_method(name)["_target_"]) for name in METHODS}
    adversarial = {name for name, each in classes.items() if issubclass(each, PGDTraining)}
    assert {"pgd", "alp", "lrm"} <= adversarial
    assert adversarial == {name for name in METHODS if "alpha" in _method(name)}
    for name in METHODS:
        assert _method(name)["epochs"] == (101 if name in adversarial else 200)
    assert _compose("method=regular", "experiment=paper").trainer.max_epochs == 200


def test_recipe_of_the_paper():
    cfg = _compose("experiment=paper")
    assert (cfg.attack.eps, cfg.attack.step_size, cfg.attack.steps) == (0.03, 0.0078, 10)
    assert (cfg.attack.norm, cfg.attack.random_start) == ("linf", True)
    assert cfg.data.batch_size == 128
    assert cfg.optimizer.weight_decay == 2e-4
    assert cfg.robust_accuracy.test_steps == [5, 10, 20]


def test_recipe_of_the_field():
    cfg = _compose("experiment=robustbench")
    assert build.build_attack(cfg) == PGDAttack(eps=8 / 255, step_size=2 / 255, steps=10)
    assert build.build_robust_accuracy(cfg).attack.step_size == 2 / 255
    network = torch.nn.Conv2d(3, 10, 32)
    defense = build.build_defense(cfg, network, 10)
    optimizer = defense.make_optimizer()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0]
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (128, 200)
    schedule = defense.make_scheduler(optimizer, epochs=200, steps_per_epoch=1)
    rates = []
    for _ in range(200):
        rates += schedule.get_last_lr()[:1]
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1] * 100 + [0.01] * 50 + [0.001] * 50)


@pytest.mark.parametrize("experiment", ["cpu", "demo", "paper", "robustbench", "short"])
def test_another_norm_replaces_radius_and_steps_of_an_experiment(experiment):
    cfg = _compose(f"experiment={experiment}", "attack=l2")
    assert cfg.attack == _compose("attack=l2").attack
    assert cfg.robust_accuracy.step_size is None  # 0.26 eps


def test_table_1_settings_of_the_methods():
    assert _method("label_smoothing")["smoothing"] == 0.75
    assert _method("alp")["alpha"] == _method("pgd")["alpha"] == 0
    lrm = _method("lrm")
    assert (lrm["smoothing"], lrm["squeeze_weight"], lrm["mixing"]) == (0.1, 1e-3, "vh_mixup")
