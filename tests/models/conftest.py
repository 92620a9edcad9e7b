"""Small networks of each family with batch norms that do something, negative scales included."""

import pytest
import torch
from torch import nn

from lrm_lightning.models.preact_resnet import PreActResNet
from lrm_lightning.models.resnet import ResNet

FAMILIES = {
    "resnet": lambda: ResNet(depth=2, widths=(4, 4, 8, 12), num_classes=5),
    "resnet_growing": lambda: ResNet(depth=1, widths=(4, 6, 6, 8), num_classes=5),
    "preact_resnet": lambda: PreActResNet(blocks=(2, 1), widths=(4, 8), num_classes=5),
}


@pytest.fixture(params=FAMILIES)
def network(request):
    """In double precision, where equal means equal to the last digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FAMILIES[request.param]().double().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.zeros_(module.weight[:1])
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@pytest.fixture
def images():
    """Six images and their labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(6, 3, 16, 16, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (6,), generator=generator)
