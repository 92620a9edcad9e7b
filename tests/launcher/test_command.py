"""Command line and environment of a job."""

from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.lrm_process_launcher._command import child_command, child_environment
from hydra_plugins.lrm_process_launcher._job import Job


def command(
    overrides=(), directory="/runs/a", hydra_overrides=(), sources=(), config_name="config"
):
    master = OmegaConf.create(
        {
            "hydra": {
                "runtime": {"config_sources": list(sources)},
                "job": {"config_name": config_name},
                "overrides": {"hydra": list(hydra_overrides)},
            }
        }
    )
    empty = OmegaConf.create()
    return child_command("m", master, Job(3, tuple(overrides), empty, empty, Path(directory)))


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


def test_config_files_are_named_as_the_parent_found_them():
    sources = [
        {"provider": "hydra", "schema": "pkg", "path": "hydra.conf"},
        {"provider": "main", "schema": "pkg", "path": "lrm_lightning.conf"},
        {"provider": "command-line", "schema": "file", "path": "/here/sweeps"},
        {"provider": "schema", "schema": "structured", "path": ""},
    ]
    assert command(sources=sources, config_name="two")[3:9] == [
        *("--config-path", "pkg://lrm_lightning.conf"),
        *("--config-dir", "/here/sweeps"),
        *("--config-name", "two"),
    ]


def test_only_the_hydra_settings_that_hold_for_a_job_are_passed_on():
    given_by_user = [
        *(
            "hydra.mode=MULTIRUN",
            "hydra.launcher.jobs=2",
            "hydra/launcher=process",
            "~hydra.sweep.dir",
        ),
        *("hydra.sweeper.max_batch_size=1", "++hydra.run.dir=x", "hydra/sweeper=basic"),
        *("hydra.verbose=true", "hydra/job_logging=disabled", "hydra.runtime_like=1"),
    ]
    line = command(["a=1", "+b=2"], hydra_overrides=given_by_user)
    assert line[line.index("--config-name") + 2 :] == [
        *("hydra.verbose=true", "hydra/job_logging=disabled", "hydra.runtime_like=1"),
        *("a=1", "+b=2"),
        *("hydra.mode=RUN", "hydra.run.dir=/runs/a", "hydra.job.num=3", "hydra.job.id=3"),
    ]


def test_environment_loses_ranks_and_keeps_the_rest():
    before = {
        "PATH": "p",
        "RANK": "1",
        "PL_X": "1",
        "APL_X": "1",
        "SLURM_JOB_ID": "9",
        "MASTER_PORT": "1",
    }
    after = child_environment(before, {"MASTER_PORT": "2"})
    assert after == {
        **{"PATH": "p", "APL_X": "1", "SLURM_JOB_ID": "9"},
        **{"MASTER_PORT": "2", "PYTHONUNBUFFERED": "1"},
    }
    assert before["RANK"] == "1"
