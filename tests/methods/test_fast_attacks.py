"""Every method trains alike, however the network is computed in its attack."""

import pytest
import torch
from torch import nn

from lrm_lightning.models import ResNet
from lrm_lightning.models.view import attack_view
from lrm_lightning.runs import identity

METHODS = sorted(path.stem for path in (identity.conf_dir() / "method").glob("*.yaml"))


@pytest.fixture
def network():
    """A network that has a fast view; its batch norms are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet(1, (4, 6, 6, 8), num_classes=4).double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    assert attack_view(network, "fast") is not network
    return network


@pytest.mark.parametrize(
    ("method", "bn_mode"), [*((each, "eval") for each in METHODS), ("lrm", "train")]
)
def test_loss_and_gradients_are_the_same(method, bn_mode, from_conf, network, batch, train_on):
    (terms, gradients), (fast_terms, fast_gradients) = (
        train_on(
            from_conf(
                method,
                network,
                f"attack.engine={engine}",
                f"attack.bn_mode={bn_mode}",
                "attack.steps=4",
            ),
            batch,
        )
        for engine in ("reference", "fast")
    )
    assert list(terms) == list(fast_terms)
    for name, term in terms.items():
        torch.testing.assert_close(fast_terms[name], term, rtol=1e-9, atol=1e-11)
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-7, atol=1e-9)
