"""What tests import in place of timm: the same function with the same keywords."""

from torch import nn


def create_model(model_name, pretrained=False, num_classes=1000, in_chans=3, **kwargs):
    """A linear network of 32 x 32 pixels."""
    assert isinstance(model_name, str)
    assert not pretrained
    assert not kwargs
    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 32 * 32, num_classes))
