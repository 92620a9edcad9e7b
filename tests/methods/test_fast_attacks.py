"""Every defence trains alike with either engine."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from lrm_lightning.data import Batch
from lrm_lightning.data.randomness import Draws
from lrm_lightning.runs import identity
from lrm_lightning.training import build

METHODS = sorted(path.stem for path in (identity.conf_dir() / "method").glob("*.yaml"))


def _defense(method, network, engine, *overrides):
    with initialize_config_dir(str(Path(identity.conf_dir())), version_base="1.3"):
        cfg = compose("config", [f"method={method}", f"engine={engine}", *overrides])
    return build.build_defense(cfg, network, num_classes=5)


def _gradients(defense, images):
    x, y = images
    draws = Draws(seed=3, epoch=1, step=2, size=len(y), start=0, stop=len(y))
    targets = nn.functional.one_hot(y, 5).double()
    batch = Batch(x=x, targets=targets, y=y, index=torch.arange(len(y)), draws=draws)
    defense.zero_grad()
    terms = defense.train().loss_terms(batch)
    torch.stack(list(terms.values())).sum().backward()
    return terms, [parameter.grad.clone() for parameter in defense.network.parameters()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_loss_and_gradients_are_the_same(method, bn_mode, network, images):
    overrides = (f"attack.bn_mode={bn_mode}", "attack.steps=4")
    state = {name: value.clone() for name, value in network.state_dict().items()}
    results = []
    for engine in ("reference", "fast"):
        network.load_state_dict(state)
        results.append(_gradients(_defense(method, network, engine, *overrides), images))
    (terms, gradients), (fast_terms, fast_gradients) = results
    assert list(terms) == list(fast_terms)
    for name, term in terms.items():
        torch.testing.assert_close(fast_terms[name], term, rtol=1e-9, atol=1e-11)
    for fast, plain in zip(fast_gradients, gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-7, atol=1e-9)
