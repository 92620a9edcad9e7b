"""A small network that has learned the digits a little, and the Trainer around it."""

import copy

import lightning as L
import pytest
import torch
from torch import nn

from lrm_lightning.data import DigitsDataModule
from lrm_lightning.models import ResNet


@pytest.fixture(scope="session")
def _trained():
    data = DigitsDataModule(val_size=40, batch_size=64)
    data.setup()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet(depth=1, widths=(4, 4, 8, 8))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(2):
        for batch in data.train_dataloader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch.x), batch.y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return network


@pytest.fixture
def network(_trained):
    """A copy of its own for each test."""
    return copy.deepcopy(_trained)


@pytest.fixture
def digits():
    """40 validation images in batches of 16, 16 and 8."""
    return DigitsDataModule(val_size=40, batch_size=64, eval_batch_size=16)


@pytest.fixture
def make_trainer():
    """Function: a Trainer without files, bars and chatter."""

    def make(*callbacks, **settings):
        defaults = {"inference_mode": False, "limit_train_batches": 1, "log_every_n_steps": 1}
        return L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=list(callbacks),
            **(defaults | settings),
        )

    return make
