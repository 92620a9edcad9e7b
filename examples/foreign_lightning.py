"""Watch the robust accuracy of a LightningModule of your own while it trains.

    python -m examples.foreign_lightning

The module, the loaders and the Trainer are anybody's: ``forward`` takes pixels in [0, 1]
(normalisation is its own business) and returns logits, and batches begin with images and labels.
"""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.training.robust_accuracy import RobustAccuracy


class Digits(L.LightningModule):
    """Two layers, trained on clean images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (B, 1, 8, 8) to logits (B, 10)."""
        return self.head(self.backbone((x - 0.3) / 0.4))

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """The loss of a batch."""
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        """Whatever else you look at."""
        x, y = batch
        self.log("val/loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def loaders(batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    """scikit-learn's digits, 1,400 to train on and 397 to validate."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().div(16).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    train, val = TensorDataset(x[:1400], y[:1400]), TensorDataset(x[1400:], y[1400:])
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, batch_size)


def train(module: L.LightningModule, epochs: int = 5) -> dict[str, float]:
    """Train the module; what is logged at the end, by name."""
    watch = RobustAccuracy(PGDAttack(eps=0.1), steps=[1, 10], n_images=200)
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[watch], logger=False, enable_checkpointing=False
    )
    trainer.fit(module, *loaders())
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    L.seed_everything(0)
    for name, value in train(Digits()).items():
        print(f"{name} {value:.3f}")  # noqa: T201
