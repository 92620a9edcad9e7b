"""Sharing out GPUs and cores."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.lrm_process_launcher._job import Job
from hydra_plugins.lrm_process_launcher._resources import DevicePool, Machine, Resources
from lrm_lightning.errors import UserError


def job(number=0, *, devices=1, on_gpu=False):
    empty = OmegaConf.create()
    return Job(number, (), empty, empty, Path(str(number)), devices=devices, on_gpu=on_gpu)


@given(
    size=st.integers(1, 6),
    each=st.integers(1, 3),
    wanted=st.lists(st.integers(1, 6), max_size=30),
    returns=st.randoms(use_true_random=False),
)
def test_pool_never_lends_more_than_it_has(size, each, wanted, returns):
    pool = DevicePool(map(str, range(size)), each)
    lent = []
    for count in wanted:
        held = [device for share in lent for device in share]
        free = [device for device in map(str, range(size)) if held.count(device) < each]
        share = pool.take(count)
        if len(free) < count:
            assert share is None
        else:
            assert len(set(share)) == len(share) == count
            assert set(share) <= set(free)
            lent.append(share)
        if lent and returns.random() < 0.5:
            pool.give_back(lent.pop(returns.randrange(len(lent))))
    for share in lent:
        pool.give_back(share)
    whole = [pool.take(size) for _ in range(each)]
    assert all(set(share) == set(map(str, range(size))) for share in whole)
    assert pool.take(1) is None


def test_pool_spreads_jobs_before_it_doubles_them():
    pool = DevicePool(["a", "b"], 2)
    assert {pool.take(1), pool.take(1)} == {("a",), ("b",)}


def test_gpu_jobs_hold_different_gpus():
    jobs = [job(0, devices=2, on_gpu=True), job(1, on_gpu=True), job(2, on_gpu=True)]
    resources = Resources(Machine(["0", "1", "GPU-7f"], cores=4), jobs)
    first, second = resources.take(jobs[0]), resources.take(jobs[1])
    assert first is not None
    assert second is not None
    assert not set(first.slots) & set(second.slots)
    assert first.environment["CUDA_VISIBLE_DEVICES"] == ",".join(first.slots)
    assert "MASTER_PORT" in first.environment
    assert "MASTER_PORT" not in second.environment
    assert "OMP_NUM_THREADS" not in second.environment
    assert resources.take(jobs[2]) is None
    resources.give_back(jobs[1], second)
    assert resources.take(jobs[2]) == second


@pytest.mark.parametrize(
    ("cores", "at_once", "jobs", "devices", "fit", "threads"),
    [
        (8, None, 2, 1, 2, 4),  # all cores in use by the jobs there are
        (8, None, 20, 1, 8, 1),
        (8, 3, 20, 1, 3, 2),
        (2, 4, 20, 1, 4, 1),  # asked for more than there are cores
        (8, 2, 2, 2, 2, 2),  # two processes share the four cores of their job
        (4, None, 8, 4, 1, 1),
        (2, None, 1, 4, 1, 1),  # more processes than cores still run
        (1, None, 3, 1, 1, 1),
    ],
)
def test_cpu_jobs_divide_the_cores(cores, at_once, jobs, devices, fit, threads):
    waiting = [job(number, devices=devices) for number in range(jobs)]
    resources = Resources(Machine(0, cores), waiting, at_once)
    shares = [share for share in map(resources.take, waiting) if share is not None]
    assert len(shares) == fit
    assert {share.environment["OMP_NUM_THREADS"] for share in shares} == {str(threads)}
    assert {share.environment["MKL_NUM_THREADS"] for share in shares} == {str(threads)}
    assert {share.environment["CUDA_VISIBLE_DEVICES"] for share in shares} == {""}
    ports = [share.environment.get("MASTER_PORT") for share in shares]
    assert len(set(ports)) == len(ports) if devices > 1 else set(ports) == {None}


@pytest.mark.parametrize(
    ("visible", "asked", "found"),
    [
        ("0,1,2", None, ["0", "1", "2"]),
        ("GPU-a, MIG-b", None, ["GPU-a", "MIG-b"]),
        ("3,-1,4", None, ["3"]),  # CUDA stops at the first negative id
        ("", None, []),
        ("-1", None, []),
        ("4,5,6", 2, ["4", "5"]),
        ("4,5,6", [6, 4], ["6", "4"]),
        ("4,5", 0, []),
        (None, [1, 3], ["1", "3"]),
    ],
)
def test_visible_gpus(monkeypatch, visible, asked, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Machine(asked, cores=1).gpus == found


@pytest.mark.parametrize("asked", [3, [0, 5]])
def test_gpus_that_are_not_visible(monkeypatch, asked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"hydra\.launcher\.gpus="):
        _ = Machine(asked, cores=1).gpus


def test_cores_are_those_of_this_process():
    if hasattr(os, "sched_getaffinity"):
        assert Machine(None, None).cores == len(os.sched_getaffinity(0))
    assert Machine(None, 3).cores == 3
