"""Settings, devices and shares: what can't be, and who gets what."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.lrm_process_launcher._plan import Job, visible_gpus, wanted_devices
from hydra_plugins.lrm_process_launcher._schedule import Resources
from hydra_plugins.lrm_process_launcher.launcher import ProcessLauncherConf, check_settings
from lrm_lightning.errors import UserError


@pytest.fixture(autouse=True, scope="module")
def _unrestricted():
    """The ids of GPUs below may be any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        yield


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"jobs": 0}, "jobs=0 must be a whole number >= 1"),
        ({"cores": -1}, "cores=-1 must be"),
        ({"jobs_per_gpu": 0}, "jobs_per_gpu=0 must be"),
        ({"timeout": 0.0}, "timeout=0.0 must be a number > 0"),
        ({"grace": -1.0}, "grace=-1.0 must be"),
        ({"gpus": "some"}, "gpus='some' must be a whole number >= 0"),
        ({"gpus": -1}, "gpus=-1 must be"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        check_settings(ProcessLauncherConf(**setting))


def test_defaults_and_lists_are_fine():
    check_settings(ProcessLauncherConf())
    check_settings(ProcessLauncherConf(gpus=OmegaConf.create([0, 1]), jobs=2, timeout=0.5, grace=0))


def devices(trainer, gpus):
    config = OmegaConf.create({} if trainer is None else {"trainer": trainer})
    return wanted_devices(config, ProcessLauncherConf(gpus=gpus))


@pytest.mark.parametrize(
    ("accelerator", "wanted", "gpus", "found"),
    [
        ("auto", 1, ["0"], (True, 1)),
        ("auto", 2, 0, (False, 2)),
        ("cpu", 8, ["0"], (False, 8)),
        ("gpu", "auto", ["0", "1"], (True, 1)),
        ("gpu", 2, ["0", "1"], (True, 2)),
        ("cuda", -1, ["0", "1"], (True, 2)),
        ("auto", None, 0, (False, 1)),
    ],
)
def test_devices_of_a_job(accelerator, wanted, gpus, found):
    assert devices({"accelerator": accelerator, "devices": wanted}, gpus) == found


def test_a_config_without_a_trainer_takes_one_device():
    assert devices(None, 0) == (False, 1)


@pytest.mark.parametrize(
    ("accelerator", "wanted", "gpus", "message"),
    [
        ("gpu", 3, ["0", "1"], "and <= 2, the GPUs to share out"),
        ("gpu", 2, ["0", "0"], "and <= 1, the GPUs to share out"),
        ("gpu", 1, 0, "no GPU is visible"),
        ("gpu", [0], ["0"], "must be auto or a whole number"),
        ("cpu", 0, 0, "must be auto or a whole number"),
        ("cpu", -1, 0, "must be auto or a whole number"),
        ("cpu", "many", 0, "must be auto or a whole number"),
    ],
)
def test_devices_that_cannot_be_had(accelerator, wanted, gpus, message):
    with pytest.raises(UserError, match=message):
        devices({"accelerator": accelerator, "devices": wanted}, gpus)


@pytest.mark.parametrize(
    ("visible", "count", "asked", "found"),
    [
        ("0,1,2", 3, None, ["0", "1", "2"]),
        ("GPU-a, MIG-b", 2, None, ["GPU-a", "MIG-b"]),
        ("3,-1,4", 1, None, ["3"]),  # CUDA stops at the first negative id
        ("", 0, None, []),
        ("4,5,6", 3, 2, ["4", "5"]),
        ("4,5,6", 3, [6, 4], ["6", "4"]),
        ("4,5", 2, 0, []),
        (None, 2, None, ["0", "1"]),
        (None, 0, [1, 3], ["1", "3"]),
    ],
)
def test_visible_gpus(monkeypatch, visible, count, asked, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus(asked) == found


@pytest.mark.parametrize("asked", [3, [0, 5]])
def test_gpus_that_are_not_visible(monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"hydra\.launcher\.gpus="):
        visible_gpus(asked)


def jobs_of(*devices, on_gpu):
    return [
        Job(number, (), Path(str(number)), devices=count, on_gpu=on_gpu)
        for number, count in enumerate(devices)
    ]


@given(
    gpus=st.integers(1, 6),
    each=st.integers(1, 3),
    wanted=st.lists(st.integers(1, 6), max_size=30),
    returns=st.randoms(use_true_random=False),
)
def test_gpus_are_never_lent_more_often_than_allowed(gpus, each, wanted, returns):
    jobs = jobs_of(*wanted, on_gpu=True)
    names = [str(number) for number in range(gpus)]
    resources = Resources(jobs, ProcessLauncherConf(gpus=names, jobs_per_gpu=each))
    lent = []
    for job in jobs:
        held = [gpu for share in lent for gpu in share.gpus]
        free = {gpu for gpu in names if held.count(gpu) < each}
        share = resources.take(job)
        if len(free) < job.devices:
            assert share is None
        else:
            assert len(set(share.gpus)) == len(share.gpus) == job.devices
            assert set(share.gpus) <= free
            assert share.environment(job.devices) == {"CUDA_VISIBLE_DEVICES": ",".join(share.gpus)}
            lent.append(share)
        if lent and returns.random() < 0.5:
            resources.give_back(lent.pop(returns.randrange(len(lent))))


def test_jobs_spread_over_the_gpus_before_they_share_one():
    jobs = jobs_of(1, 1, 1, on_gpu=True)
    resources = Resources(jobs, ProcessLauncherConf(gpus=["a", "b"], jobs_per_gpu=2))
    first, second, third = map(resources.take, jobs)
    assert {first.gpus, second.gpus} == {("a",), ("b",)}
    assert third is not None


@pytest.mark.parametrize(
    ("cores", "at_once", "jobs", "devices", "most", "fit", "threads"),
    [
        (8, None, 2, 1, "", 2, 4),  # all cores in use by the jobs there are
        (8, None, 20, 1, "", 8, 1),
        (8, 3, 20, 1, "", 3, 2),
        (2, 4, 20, 1, "", 4, 1),  # asked for more than there are cores
        (8, 2, 2, 2, "", 2, 2),  # two processes share the four cores of their job
        (4, None, 8, 4, "", 1, 1),
        (2, None, 1, 4, "", 1, 1),  # more processes than cores still run
        (1, None, 3, 1, "", 1, 1),
        (8, None, 2, 1, "1", 2, 1),  # no more than the user wants
        (8, None, 1, 2, "3,2", 1, 3),
        (8, None, 2, 1, "16", 2, 4),
    ],
)
def test_cpu_jobs_divide_the_cores(cores, at_once, jobs, devices, most, fit, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", most)
    waiting = jobs_of(*[devices] * jobs, on_gpu=False)
    resources = Resources(waiting, ProcessLauncherConf(cores=cores, jobs=at_once))
    shares = [share for share in map(resources.take, waiting) if share is not None]
    assert len(shares) == fit
    expected = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    for share in shares:
        assert share.environment(devices) == expected | {"CUDA_VISIBLE_DEVICES": ""}
    resources.give_back(shares[0])
    assert resources.take(waiting[0]) == shares[0]


def test_cores_are_those_of_this_process(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (job,) = jobs_of(1, on_gpu=False)
    if hasattr(os, "sched_getaffinity"):
        share = Resources([job], ProcessLauncherConf()).take(job)
        assert share.cores == len(os.sched_getaffinity(0))
