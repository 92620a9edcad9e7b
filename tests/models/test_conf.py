"""Every file of conf/model builds the network of ours that its first line describes."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

FILES = [
    file
    for file in sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
    if OmegaConf.load(file)._target_.startswith("lrm_lightning.")
]


def test_there_are_networks():
    names = {"resnet_simple", "resnet_wide", "resnet_tiny", "preact_resnet18"}
    names |= {"wrn_28_10", "wrn_34_10"}
    assert names <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_comment_tells_the_parameters(file):
    with torch.device("meta"):  # without the memory of the large ones
        network = instantiate(OmegaConf.load(file), num_classes=10)
    total = sum(parameter.numel() for parameter in network.parameters())
    first = file.read_text().splitlines()[0]
    assert first.startswith("#")
    assert re.findall(r"[\d,]+(?= parameters)", first) == [f"{total:,}"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_gives_every_constructor_argument_but_those_of_the_data(file):
    config = OmegaConf.load(file)
    parameters = set(inspect.signature(get_class(config._target_)).parameters)
    assert set(config) - {"_target_"} == parameters - {"num_classes", "in_channels"}
