"""Evaluate a network that this project did not train.

Any function without arguments that returns a ``torch.nn.Module`` will do, if the module takes
pixels in [0, 1] (normalisation is its own business) and returns logits. From the repository's root:

    python -m examples.external_model weights.pt   # trains a small network in seconds
    python -m lrm_lightning.evaluate suite=strong name=small_cnn n_images=100 data.name=digits \
        network=examples.external_model:small_cnn weights=weights.pt attack.eps=0.1

The records are in ``runs/small_cnn/evaluations``, and the report shows them with the others. The
import path is code that runs, so name only what you trust; nothing in the file of weights is
executed (a state dict of ``torch.save``, or safetensors).
"""

import sys

import torch
from torch import nn

from lrm_lightning.data import DigitsDataModule


class Normalize(nn.Module):
    """Brings pixels in [0, 1] to the network's own scale, inside the network."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        return (x - 0.3) / 0.35


def small_cnn() -> nn.Module:
    """The network, untrained: its weights come from the file."""
    first, second = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 3, padding=1)
    head = (nn.Flatten(), nn.Linear(16 * 64, 10))
    return nn.Sequential(Normalize(), first, nn.ReLU(), second, nn.ReLU(), *head)


def train(epochs: int = 4) -> nn.Module:
    """The network trained on clean digits."""
    torch.manual_seed(0)
    network = small_cnn()
    datamodule = DigitsDataModule(batch_size=32, crop_padding=0)
    datamodule.setup()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in datamodule.train_dataloader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch.x), batch.y).backward()
            optimizer.step()
    return network


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.external_model WEIGHTS_FILE")
    torch.save(train().state_dict(), sys.argv[1])
