"""Whatever a user types: a command that works, or one line and exit code 1."""

import contextlib
import functools
import io
import itertools
import os
import re
import signal
import sys
from importlib.util import find_spec

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrm_lightning import cli, dashboard, evaluate, export, report, train, transfer
from lrm_lightning.data.official import OfficialDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation import session, suites
from lrm_lightning.evaluation import transfer as matrix
from lrm_lightning.runs import identity
from lrm_lightning.runs.identity import conf_dir
from lrm_lightning.training import build, run

RANDOM_LISTS = int(os.environ.get("LRM_RANDOM_LISTS", "50"))
SAME_LISTS = "LRM_RANDOM_LISTS" not in os.environ  # each time, unless more of them are asked for


def files(*groups):
    return {
        group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in groups
    }


FILES = files(
    *("attack", "callbacks", "data", "experiment", "logger", "method", "model"),
    *("optimizer", "scheduler", "trainer"),
)
ADDED = (
    *("nonsense", "attack.targeted", "attack.keep", "attack.nonsense", "scheduler.T_max"),
    *("trainer.max_steps", "trainer.min_epochs", "trainer.max_time", "trainer.fast_dev_run"),
    *("trainer.gradient_clip_val", "trainer.val_check_interval", "trainer.overfit_batches"),
    *("trainer.accumulate_grad_batches", "trainer.check_val_every_n_epoch", "trainer.profiler"),
    *("trainer.plugins", "trainer.barebones", "callbacks.mine", "logger.mine", "optimizer.betas"),
    *("logger.wandb.name", "logger.wandb.notes", "logger.wandb.id", "logger.wandb.dir"),
    *("extra_attacks.mine", "attack@extra_attacks.mine", "data.batch_size", "suite.nonsense"),
)
ODD = (
    *("null", "yes", "true", "--", "nan", "-inf", "1e999", "???", "''", "[]", "{}", "[nan]"),
    *("{a: 1}", "[[1],{a: b}]", "8/255", "8/0", "1e9/7", "0x10", "16-true", "bf16-mixed"),
    *("${method.name}", "${nothing}", "${seed", "a/b?c", "a" * 200, "../..", "ä→\u202e", "\u00a0"),
    *("torch.nn.Linear", "no.where", "{_target_: torch.nn.Linear}", "[1,2,3,4]"),
    *("method", "margin", "dlr", "torch.nn:Flatten", "lrm_lightning.losses:logit_pairing"),
    *("[lrm_lightning]", "linf", "l2", "[0.49,0.48,0.45]", "[1,10]", "digits", "last", "best"),
)


def composed(*overrides, name="config"):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, list(overrides))


def keys(name, groups):
    leaves = identity.flat(identity.plain(composed(name=name)))
    nodes = {key.rpartition(".")[0] for key in leaves} - {""}
    return [*leaves, *nodes, *groups, *(f"+{key}" for key in ADDED)]


def keys_of_files(groups):
    """(the override that chooses a file, each key that the file has or inherits)."""
    for group, names in groups.items():
        for name in names:
            chosen = f"{group}={name}"
            if group in ("attack", "method"):  # files that inherit
                node = composed(f"+{chosen}", name=None)[group]
            else:
                node = OmegaConf.load(conf_dir() / group / f"{name}.yaml")
            for key in identity.flat(OmegaConf.to_container(node)):
                yield chosen, key if group == "experiment" else f"{group}.{key}"


@functools.cache
def override_lists(name="config"):
    groups = {"config": FILES, "evaluate": files("suite", "data")}.get(name, files("data"))
    numbers = st.one_of(st.integers(), st.integers(-2, 300), st.floats()).map(str)
    texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
    scalars = st.one_of(st.sampled_from(ODD), numbers, texts)
    sequences = st.lists(scalars, max_size=3).map(lambda each: f"[{','.join(each)}]")
    values = st.one_of(
        scalars, sequences, st.tuples(texts, scalars).map("{{{0[0]}: {0[1]}}}".format)
    )
    typed = st.tuples(st.sampled_from(keys(name, groups)), values).map("=".join)
    deleted = st.sampled_from([f"~{key}" for key in keys(name, groups)])
    chosen = st.tuples(st.sampled_from(list(keys_of_files(groups))), values).map(
        lambda each: [each[0][0], f"{each[0][1]}={each[1]}"]
    )
    lists = st.one_of(*(each.map(lambda one: [one]) for each in (typed, typed, deleted)), chosen)
    return st.lists(lists, min_size=1, max_size=4).map(
        lambda each: [*itertools.chain.from_iterable(each)]
    )


def the_line(error):
    """What the command prints for an error, which must be one line."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as ended:
        cli.fail(error)
    (line,) = printed.getvalue().splitlines()
    assert line.startswith("error: ")
    assert ended.value.code == 1


@settings(max_examples=RANDOM_LISTS, derandomize=SAME_LISTS, print_blob=True)
@given(override_lists())
def test_random_overrides(overrides):
    """Hypothesis prints the list, and the seed, that ends in anything else.

    ``LRM_RANDOM_LISTS=2000`` tries as many.
    """
    try:
        cfg = composed(*overrides)
        identity.run_id(cfg)
    except Exception as error:  # before the function of a command is called, all is one line
        the_line(error)
        return
    try:
        build.validate(cfg)
    except (UserError, OmegaConfBaseException) as error:  # the command makes a line of both
        the_line(error)


@pytest.mark.slow
@pytest.mark.skipif(SAME_LISTS, reason="minutes: LRM_RANDOM_LISTS=2000 tries 100")
@settings(
    max_examples=RANDOM_LISTS // 20,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(overrides=override_lists())
def test_random_overrides_of_the_command(overrides, processes):
    """A process each, which is interrupted where the list makes a long training."""
    small = ("data=digits", "model=resnet_tiny", "trainer=cpu", "debug=fast")
    run = processes.start("lrm_lightning.train", *small, *overrides)
    run.process.join(60)
    if run.process.is_alive():
        os.kill(run.process.pid, signal.SIGINT)
    run.process.join(60)
    assert run.process.exitcode in {0, 1, 130}, run.output + run.errors
    assert "Traceback" not in run.output + run.errors
    if run.process.exitcode == 1:
        *_, line = run.errors.splitlines()
        assert line.startswith("error: ")


def reached(*_, **__):
    raise UserError("the attack is reached")


@pytest.fixture
def attacking(make_run, tmp_path, monkeypatch):
    """``attacking(name, cfg)``: evaluate or transfer, up to the attack, which is not made."""
    run = make_run()

    def record(self, path, kind, networks, threat, title, pieces, more, make):
        _, images = self.data(networks)
        make(suites.Bench(images, threat))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session.Session, "record", record)  # it would write to a random out=
    for suite in suites.SUITES.values():
        monkeypatch.setattr(suite, "run", reached)
    monkeypatch.setattr(matrix, "transfer_matrix", reached)
    monkeypatch.setattr(OfficialDataModule, "fetch", reached)
    own = {
        "evaluate": {"runs": [str(run)]},
        "transfer": {k: [str(run)] for k in ("sources", "targets")},
    }

    def command(name, cfg):
        identity.check_kinds(cfg, name)
        identity.check_keys(cfg, name)
        given = identity.plain(cfg)
        given = {
            key: own[name].get(key, each) if each == [] else each for key, each in given.items()
        }
        (suites.evaluate if name == "evaluate" else matrix.transfer)(given)

    return command


@pytest.mark.parametrize("name", ["evaluate", "transfer"])
@settings(
    max_examples=RANDOM_LISTS // 2,
    derandomize=SAME_LISTS,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_random_overrides_of_an_evaluation(name, attacking, data):
    overrides = data.draw(override_lists(name))
    try:
        cfg = composed(*overrides, name=name)
    except Exception as error:
        the_line(error)
        return
    with pytest.raises((UserError, OmegaConfBaseException, OSError)) as ended:
        attacking(name, cfg)
    the_line(ended.value)


TYPED = (
    *("model=2", "logger=null", "data=[nan]", "optimizer=0", "robust_accuracy=yes", "seed=null"),
    *("trainer.log_every_n_steps=--", "trainer.log_every_n_steps=-inf", "+trainer.max_steps=3"),
    *("trainer.precision=16-true", "trainer.precision=bf16-true", "attack.eps=8/0", "sweep=[1,2]"),
    *("logger.wandb.project=a/b?c", "logger.wandb.entity=[1e9]", "attack={eps: abc}"),
    *("hydra.job.chdir=true", "hydra.job.env_copy=[NOT_SET]", "+attack.foo=1", "method=foo"),
    *(
        "--experimental-rerun=x",
        "--config-name=tab",
        "~trainer.max_epochs=1",
        "~logger.mine",
        "data._target_=[]",
        "a=" + 999 * "[",
    ),
)


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """``typed(*arguments)``: exit code and errors of the command, which trains nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "train", lambda cfg, path, **_: build.validate(cfg))
    (tmp_path / "tab.yaml").write_text("data:\n\tname: digits\n")

    def command(*arguments):
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
        monkeypatch.setattr(sys, "argv", ["lrm-train", "--config-dir=.", *arguments, *quiet])
        try:
            train.main()
        except SystemExit as ended:
            return ended.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return command


@pytest.mark.parametrize("argument", TYPED, ids=lambda each: each[:40])
def test_the_line_names_what_was_typed(typed, argument):
    code, printed = typed(argument, "rerun=true")
    assert code == 1
    (line,) = printed.splitlines()
    assert line.startswith("error: ")
    assert argument.partition("=")[2 if argument.startswith("--config") else 0] in line
    assert argument in line or argument.startswith("--")


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        (evaluate, "runs=3"),
        (evaluate, "network=[1]"),
        (evaluate, "name=3"),
        (evaluate, "extra_attacks=3"),
        (transfer, "targets=null"),
        (export, "out=[1]"),
        (report, "out=null"),
    ],
)
def test_other_commands_name_it_too(command, argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", argument])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: {re.escape(argument)}.* must be (text|a text|a mapping)", line)


@pytest.mark.parametrize(
    ("command", "argument"),
    [(evaluate, "~seed"), (transfer, "~steps"), (export, "~trust"), (evaluate, "suite.name=[[1]]")],
)
def test_what_is_missing_or_no_name_is_named(command, argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", argument])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: (~(\w+): \2 is missing|suite=\[\[1\]\] is unknown); ", line)


@pytest.mark.parametrize("key", ["ckpt_path", "callbacks.x", "trainer.callbacks", "data.nonsense"])
@pytest.mark.parametrize("command", [evaluate, transfer, export, report, dashboard])
def test_a_key_that_nothing_reads_is_refused_by_every_command(command, key, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", f"+{key}=1"])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: +{key}=1: {key} has no effect; the nearest key that has one")


@pytest.mark.parametrize("command", [train, evaluate, transfer, export, report])
def test_help_lists_the_groups_of_a_training_for_a_training_alone(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    printed = capsys.readouterr().out
    assert ("scheduler: cosine" in printed) == (command is train)
    assert ("key=value" in printed) == (command is not train)
    for key in composed(name=command.__name__.rpartition(".")[2]) if command is not train else ():
        assert f"{key}:" in printed


def test_what_is_right_passes(typed):
    assert typed("data=digits", "attack.eps=8/255", "attack.step_size=2/255") == (0, "")


@pytest.mark.skipif(find_spec("hydra_plugins.hydra_ray_launcher") is not None, reason="it is")
def test_a_launcher_that_is_not_installed(typed):
    code, printed = typed("-m", "hydra/launcher=ray")
    assert code == 1
    assert printed.endswith("not installed; pip install hydra-ray-launcher\n")


def test_a_name_that_is_no_folder_makes_no_directory(typed, tmp_path):
    code, printed = typed("data=digits", "data.name=../../x", "runs_dir=runs/a")
    message = "error: data.name=../../x must be usable as the name of a folder\n"
    assert (code, printed) == (1, message)
    assert [path.name for path in tmp_path.iterdir()] == ["tab.yaml"]


@pytest.mark.parametrize("key", ["method.alpha", "optimizer.betas"])
def test_a_setting_of_another_method_is_not_to_be_added(key, typed):
    group, _, name = key.partition(".")
    code, printed = typed("method=regular", f"{key}=0.5")
    mend = f"if its class takes one, give +{key}=..."
    line = f"error: {key}=0.5: the chosen {group} has no setting {name}; {mend}\n"
    assert (code, printed) == (1, line)


@pytest.mark.parametrize("empty", ["", "' '"])
def test_no_folder_of_runs_is_not_the_root(empty, typed, tmp_path):
    code, printed = typed("data=digits", f"runs_dir={empty}")
    assert code == 1
    assert re.fullmatch(
        r"error: runs_dir='\s?' must name a folder, such as runs_dir=runs\n", printed
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tab.yaml"]


def test_a_place_where_no_run_can_be_is_named(typed):
    code, printed = typed("data=digits", "runs_dir=tab.yaml")
    assert code == 1
    assert printed.startswith("error: runs_dir=tab.yaml: cannot write tab.yaml/digits/pgd-")
    assert printed.endswith(": Not a directory; make it writable or choose another runs_dir=...\n")


def test_a_variable_that_wandb_refuses(typed, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    code, printed = typed()
    assert code == 1
    assert printed.startswith("error: logger.wandb: mode='nonsense': Input should be 'online'")


def test_a_search_that_is_shorter_than_eps_is_said(capsys):
    cfg = composed("data=digits", "attack.eps=0.2", "robust_accuracy.step_size=0.1")
    defense = build.build_defense(cfg, torch.nn.Linear(1, 1), 10)
    run._say_what_falls_short(cfg, defense, build.build_robust_accuracy(cfg))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: attack: 10 steps of 0.0078 are shorter than eps 0.2")
