"""What the launcher takes from inside Hydra: a change there must fail here."""

import math
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins import basic_sweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.lrm_process_launcher._hydra import Composer, call_after_multirun
from hydra_plugins.lrm_process_launcher._plan import Job, State
from hydra_plugins.lrm_process_launcher.launcher import _job_return
from lrm_lightning.runs.identity import conf_dir


@pytest.fixture
def hydra():
    """Hydra's context of a multirun, and its master configuration."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def start(*overrides):
            master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
            return HydraContext(loader, Callbacks()), master

        yield start


def test_a_job_is_composed_once(hydra, monkeypatch):
    context, master = hydra("data=digits")
    composed = []
    compose = context.config_loader.load_sweep_config

    def counted(master_config, sweep_overrides):
        composed.append(tuple(sweep_overrides))
        return compose(master_config, sweep_overrides)

    monkeypatch.setattr(context.config_loader, "load_sweep_config", counted)
    composer = Composer(master, context)
    sweeper = basic_sweeper.BasicSweeper(max_batch_size=None)
    sweeper.hydra_context, sweeper.config = context, master
    batch = [["seed=1"], ["seed=2"]]
    sweeper.validate_batch_is_legal(batch)
    for number, overrides in enumerate(batch):
        with composer.job(number, overrides) as (config, _):
            assert config.seed == number + 1
    assert composed == [("seed=1",), ("seed=2",)]
    with composer.job(2, ["seed=1"]) as (config, _):  # of a sweeper that does not check
        assert config.seed == 1


def test_a_job_resolves_as_it_will_on_its_own(hydra):
    given_by_user = ("hydra.sweep.dir=/there", "hydra.sweep.subdir=${method.name}-${hydra.job.num}")
    context, master = hydra(*given_by_user)
    composer, before = Composer(master, context), HydraConfig.instance().cfg
    overrides = ["method=alp", "+seen='${hydra:job.id} ${hydra:runtime.output_dir}'"]
    with composer.job(7, overrides) as (config, directory):
        assert config.seen == "7 /there/alp-7"
        assert "hydra" not in config
    assert directory == Path("/there/alp-7")
    assert HydraConfig.instance().cfg is before


def test_the_end_of_a_multirun_comes_after_the_users_callbacks():
    class Users(Callback):
        def on_multirun_end(self, config, **kwargs):
            order.append("user's")

    def end():
        order.append("ours")
        raise SystemExit(1)

    order, callbacks = [], Callbacks()
    callbacks.callbacks.append(Users())
    call_after_multirun(HydraContext(None, callbacks), end)
    with pytest.raises(SystemExit):
        callbacks.on_multirun_end(config=OmegaConf.create())
    assert order == ["user's", "ours"]


def test_a_sweeper_gets_scores(tmp_path):
    record = '{"method": "alp", "data": {"name": "digits"}, "n": 4, "metrics": {}, "score": 0.25}'
    (tmp_path / "record.json").write_text(record)
    done = Job(0, ("a=1",), tmp_path, state=State.DONE)
    failed = Job(1, ("a=2",), tmp_path, state=State.FAILED)
    twin = Job(2, ("a=2",), tmp_path, twin=failed)
    values = [_job_return(job).return_value for job in (done, failed, twin)]
    assert values[0] == 0.25
    assert math.isnan(values[1])
    assert math.isnan(values[2])


def command(overrides=(), directory="/runs/a", hydra_overrides=(), **job):
    hydra = {
        "runtime": {"config_sources": []},
        "job": {"config_name": "config"},
        "overrides": {"hydra": list(hydra_overrides)},
    }
    composer = Composer(OmegaConf.create({"hydra": hydra}), HydraContext(None, Callbacks()))
    return composer.command_line("m", Job(3, tuple(overrides), Path(directory), **job))


CHARACTERS = st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(" \\'\"")


@settings(max_examples=50)
@given(st.text(CHARACTERS).filter(lambda name: "${" not in name))
@example("it's")
@example("a=1,b=[c] {d} (e) $f:g~h")
@example("ends with \\")
@example("\\'")
def test_hydra_reads_the_directory_back(name):
    directory = f"/runs/{name}/x"
    (line,) = [item for item in command(directory=directory) if item.startswith("hydra.run.dir=")]
    read = OverridesParser.create().parse_override(line).value()
    assert str(read) == str(Path(directory))


def test_only_the_hydra_settings_that_hold_for_a_job_are_passed_on():
    of_the_sweep = [
        *("hydra.mode=MULTIRUN", "hydra.launcher.jobs=2", "hydra/launcher=process"),
        *("~hydra.sweep.dir", "hydra.sweeper.max_batch_size=1", "++hydra.run.dir=x"),
        "hydra/sweeper=basic",
    ]
    of_a_job = [
        *("hydra.verbose=true", "hydra/job_logging=disabled", "hydra.runtime_like=1"),
        "hydra.job.env_set.X=${method.name}",  # not resolved here, where there is no method
    ]
    line = command(["a=1", "+b=2"], hydra_overrides=of_the_sweep + of_a_job)
    assert line[line.index("config") + 1 :] == [
        *of_a_job,
        *("a=1", "+b=2"),
        *("hydra.mode=RUN", "hydra.run.dir=/runs/a", "hydra.job.num=3", "hydra.job.id=3"),
    ]


def test_a_job_that_was_given_a_gpu_must_use_it():
    asked = "++trainer.accelerator=gpu"
    assert asked in command(["trainer.accelerator=auto"], on_gpu=True)
    assert asked not in command(["trainer.accelerator=auto"])
