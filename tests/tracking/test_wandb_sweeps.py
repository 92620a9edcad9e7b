"""W&B's sweep files start the jobs of our own sweeps, in W&B's agent as in our launcher."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lrm_lightning.runs import identity
from lrm_lightning.training import build

SWEEPS = Path(__file__).parents[2] / "sweeps"


def _compose(*overrides, name="config", folder=None):
    search = [] if folder is None else [f"hydra.searchpath=[file://{identity.conf_dir()}]"]
    with initialize_config_dir(str(folder or identity.conf_dir()), version_base="1.3"):
        return compose(name, [*search, *overrides], return_hydra_config=folder is not None)


def _ours(name):
    cfg = _compose(name=name, folder=SWEEPS)
    params = OmegaConf.to_container(cfg.hydra.sweeper.params)
    choices = [[f"{key}={each}" for each in str(params[key]).split(",")] for key in params]
    return [_compose(*job, name=name, folder=SWEEPS) for job in itertools.product(*choices)]


def _theirs(name):
    """As ``wandb agent`` makes the command lines of a grid."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load((SWEEPS / "wandb" / f"{name}.yaml").read_text())
    parts = utils.create_sweep_command(sweep["command"])
    assert parts[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
    assert sweep["program"] == "lrm_lightning.train"
    assert sweep["method"] == "grid"
    keys = list(sweep["parameters"])
    for values in itertools.product(*(sweep["parameters"][key]["values"] for key in keys)):
        arguments = {key: {"value": value} for key, value in zip(keys, values, strict=True)}
        filled = utils.create_sweep_command_args({"args": arguments})
        yield [
            each
            for part in parts[4:]
            for each in (filled[part[2:-1]] if part.startswith("${") else [part])
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smoothing", "squeezing"])
def test_the_same_jobs(name):
    ours = {identity.run_id(cfg) for cfg in _ours(name)}
    theirs = [_compose(*arguments) for arguments in _theirs(name)]
    for cfg in theirs:
        build.validate(cfg)
        assert cfg.sweep == name
    assert {identity.run_id(cfg) for cfg in theirs} == ours
    assert len(theirs) == len(ours) > 1


@pytest.mark.parametrize("name", ["smoothing", "squeezing"])
def test_parameters_hide_no_group_of_the_configuration(name):
    sweep = yaml.safe_load((SWEEPS / "wandb" / f"{name}.yaml").read_text())
    assert not sweep["parameters"].keys() & identity.plain(_compose()).keys()


def test_the_file_shows_how_to_start_it():
    for path in sorted((SWEEPS / "wandb").glob("*.yaml")):
        shown = re.search(r"wandb sweep .* (\S+\.yaml)", path.read_text())
        assert shown is not None
        assert (SWEEPS.parent / shown[1]) == path
