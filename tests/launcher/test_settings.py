"""Settings of the launcher and of the jobs' devices that can't be."""

import pytest
from omegaconf import OmegaConf

from hydra_plugins.lrm_process_launcher._plan import _wanted_devices
from hydra_plugins.lrm_process_launcher._resources import Machine
from hydra_plugins.lrm_process_launcher.launcher import ProcessLauncherConf, check_settings
from lrm_lightning.errors import UserError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"jobs": 0}, "jobs=0 must be a whole number >= 1"),
        ({"cores": -1}, "cores=-1 must be"),
        ({"jobs_per_gpu": 0}, "jobs_per_gpu=0 must be"),
        ({"timeout": 0.0}, "timeout=0.0 must be a number > 0"),
        ({"grace": -1.0}, "grace=-1.0 must be"),
        ({"poll": 0.0}, "poll=0.0 must be"),
        ({"gpus": "some"}, "gpus='some' must be a whole number >= 0"),
        ({"gpus": -1}, "gpus=-1 must be"),
        ({"gpus": [0, "0"]}, "names a GPU twice"),
    ],
)
def test_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        check_settings(ProcessLauncherConf(**setting))


def test_defaults_and_lists_are_fine():
    check_settings(ProcessLauncherConf())
    check_settings(ProcessLauncherConf(gpus=OmegaConf.create([0, 1]), jobs=2, timeout=0.5, grace=0))


def devices(accelerator, wanted, gpus):
    config = OmegaConf.create({"trainer": {"accelerator": accelerator, "devices": wanted}})
    return _wanted_devices(config, Machine(gpus, cores=2))


@pytest.mark.parametrize(
    ("accelerator", "wanted", "gpus", "found"),
    [
        ("auto", 1, ["0"], (True, 1)),
        ("auto", 2, 0, (False, 2)),
        ("cpu", 8, ["0"], (False, 8)),
        ("gpu", "auto", ["0", "1"], (True, 1)),
        ("gpu", "2", ["0", "1"], (True, 2)),
        ("cuda", -1, ["0", "1"], (True, 2)),
        ("auto", None, 0, (False, 1)),
    ],
)
def test_devices_of_a_job(accelerator, wanted, gpus, found):
    assert devices(accelerator, wanted, gpus) == found


def test_a_config_without_a_trainer_takes_one_device():
    assert _wanted_devices(OmegaConf.create(), Machine(0, cores=2)) == (False, 1)


@pytest.mark.parametrize(
    ("accelerator", "wanted", "gpus", "message"),
    [
        ("gpu", 3, ["0", "1"], "only 2 GPUs"),
        ("gpu", 1, 0, "no GPU is visible"),
        ("gpu", [0], ["0"], "must be a whole number"),
        ("cpu", 0, 0, "must be a whole number"),
        ("cpu", "many", 0, "must be a whole number"),
    ],
)
def test_devices_that_cannot_be_had(accelerator, wanted, gpus, message):
    with pytest.raises(UserError, match=message):
        devices(accelerator, wanted, gpus)
