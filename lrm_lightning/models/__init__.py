"""Networks: pixels in [0, 1] of shape ``(N, channels, H, W)`` in, logits of shape ``(N, C)`` out.

Each normalises its own input, so that eps of an attack is measured in pixels and an attack
differentiates through the normalisation.
"""

from lrm_lightning.models.preact_resnet import PreActResNet, WideResNet
from lrm_lightning.models.resnet import ResNet

__all__ = ["PreActResNet", "ResNet", "WideResNet"]
