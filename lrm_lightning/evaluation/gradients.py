"""Whether the gradient that white-box attacks follow is there, and means anything nearby."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrm_lightning.attacks.context import attack_mode
from lrm_lightning.evaluation.bench import Bench
from lrm_lightning.evaluation.images import starts

STAGE = "gradient"
# Below it float32 numbers lose precision one bit at a time.
SMALLEST = float(torch.finfo(torch.float32).tiny)


def gradient_health(
    bench: Bench, correct: np.ndarray, *, nearness: float
) -> tuple[np.ndarray, np.ndarray]:
    """The loss gradient of each correctly classified image, there and a hair away.

    Args:
        bench: Network and images.
        correct: Images to look at, bool ``(n,)``.
        nearness: Size of the random step to the second point, as a share of eps.

    Returns:
        ``vanished``: bool ``(m,)``, the largest entry of the gradient is zero or denormal in
        float32; ``cosine``: float ``(m,)`` in [-1, 1], between the gradients at both points, 0
        where either vanished. ``m`` images, in order.
    """
    step = replace(bench.threat, eps=bench.threat.eps * nearness, random_start=True)

    def compute(places: np.ndarray) -> dict[str, np.ndarray]:
        x, y = bench.images.rows(places)
        near = starts(step, bench.images, places, bench.seed, STAGE).clamp(0, 1)
        here, there = (_gradient(bench.network, each, y) for each in (x, near))
        sizes = torch.stack([here.abs().amax(dim=1), there.abs().amax(dim=1)])
        usable = (sizes >= SMALLEST).all(dim=0)
        # Brought to size 1 first: squares of small gradients underflow.
        here, there = (
            each.double() / size.double().clamp(min=SMALLEST)[:, None]
            for each, size in zip((here, there), sizes, strict=True)
        )
        cosine = torch.where(usable, F.cosine_similarity(here, there, dim=1), 0.0)
        return {
            "vanished": (sizes[0] < SMALLEST).cpu().numpy(),
            "cosine": cosine.cpu().numpy(),
        }

    n = len(correct)
    blank = {"vanished": np.zeros(n, bool), "cosine": np.zeros(n)}
    results = bench.fill(STAGE, correct.nonzero()[0], compute, blank)
    return results["vanished"][correct], results["cosine"][correct]


def _gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of each image's cross-entropy with respect to its pixels, shape ``(B, pixels)``."""
    with attack_mode(network):
        leaf = x.detach().requires_grad_()
        loss = F.cross_entropy(network(leaf), y, reduction="sum")
        found = torch.autograd.grad(loss, leaf, allow_unused=True) if loss.requires_grad else [None]
    gradient = found[0]
    if gradient is None:
        raise ValueError("no gradient flows from the model's logits to x: is its input detached?")
    if not gradient.isfinite().all():
        raise ValueError("the model's gradients are NaN or infinite")
    return gradient.flatten(1)
