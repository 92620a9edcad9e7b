"""Verdicts are gathered exactly: in order, and none twice."""

import socket

import numpy as np
import pytest
import torch

from lrm_lightning.training.correctness import Correctness


def test_verdicts_come_in_the_order_of_the_split():
    metric = Correctness(["clean", "fgsm"])
    metric.update(torch.tensor([4, 1]), torch.tensor([[True, True], [True, False]]))
    metric.update(torch.tensor([0]), torch.tensor([[False, True]]))
    index, correct = metric.compute()
    assert index.tolist() == [0, 1, 4]
    assert {name: each.tolist() for name, each in correct.items()} == {
        "clean": [False, True, True],
        "fgsm": [True, False, True],
    }
    assert all(each.dtype == np.bool_ for each in correct.values())


@pytest.mark.parametrize("batches", [[[0, 1], [1, 2]], [[3, 3]]])
def test_an_image_counted_twice_is_an_error(batches):
    metric = Correctness(["clean"])
    for index in batches:
        metric.update(torch.tensor(index), torch.ones(len(index), 1, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="evaluated twice"):
        metric.compute()


def _rank(rank, port, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    metric = Correctness(["clean", "fgsm"])
    if rank == 0:  # the other rank's images are all beyond n_images
        metric.update(torch.tensor([1, 0]), torch.tensor([[True, False], [True, True]]))
    index, correct = metric.compute()
    np.savez(folder / f"{rank}.npz", index=index, **correct)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_rank_without_images(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, args=(port, tmp_path), nprocs=2)
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert found["index"].tolist() == [0, 1]
            assert found["clean"].tolist() == [True, True]
            assert found["fgsm"].tolist() == [True, False]


def test_states_have_their_shape_before_the_first_image():
    metric = Correctness(["clean", "fgsm", "pgd5"])
    assert [tuple(each.shape) for each in metric.verdicts] == [(0, 3)]
    assert [each.dtype for each in metric.index] == [torch.int64]
