"""The same in place of torchvision."""

from torch import nn


def get_model(name, *, weights=None, num_classes=1000):
    """A linear network of 32 x 32 pixels."""
    assert isinstance(name, str)
    assert weights is None
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))
