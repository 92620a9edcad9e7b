"""What the convolutions of a network cost, and how fast this machine can do them at best."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.timing import elapsed

# The parts of a pass: of an attack "forward" and "input"; of training "forward", "hidden" (the
# gradients of all inputs but the image) and "weights".
PARTS = ("forward", "input", "hidden", "weights")
Amounts = Mapping[str, float]


class Convolution(NamedTuple):
    """A convolution of a network as it was called; equal ones are timed once.

    Attributes:
        x: Shape of its input.
        weight: Shape of its weights.
        out: Shape of its output.
        stride: In both directions.
        padding: In both directions.
        groups: Groups of channels.
    """

    x: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int

    @property
    def flops(self) -> int:
        """Multiplications and additions of a forward pass; each gradient costs as many."""
        batch, channels, height, width = self.out
        _, per_group, kernel_height, kernel_width = self.weight
        return 2 * batch * channels * height * width * per_group * kernel_height * kernel_width


def convolutions(network: nn.Module, x: Tensor) -> list[Convolution]:
    """The convolutions of a forward pass, in order."""
    found: list[Convolution] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        padding = tuple(int(each) for each in module.padding)
        x, weight, result = (tuple(each.shape) for each in (inputs[0], module.weight, out))
        found.append(Convolution(x, weight, result, module.stride, padding, module.groups))

    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class Limit(NamedTuple):
    """Convolutions alone, for one batch, by part.

    Attributes:
        flops: Multiplications and additions.
        seconds: The best times measured.
        images: Images of the batch.
    """

    flops: Amounts
    seconds: Amounts
    images: int

    def best(self, passes: Amounts, *, images: int) -> float:
        """Seconds that the convolutions of so many ``passes`` of ``images`` take at best."""
        each = sum(count * self.seconds[part] for part, count in passes.items())
        return each * images / self.images

    def reached(self, passes: Amounts, *, images: int, seconds: float) -> dict[str, float]:
        """What ``seconds`` for so many ``passes`` of each of ``images`` are of the possible."""
        batches = images / self.images
        flops = batches * sum(count * self.flops[part] for part, count in passes.items())
        best = self.best(passes, images=images)
        return {
            "gflops": flops / seconds / 1e9,
            "best_gflops": flops / best / 1e9,
            "share": best / seconds,
        }


def limit(network: nn.Module, x: Tensor, *, repeats: int) -> Limit:
    """Measure every distinct convolution of ``network`` at ``x``, channels-last."""
    found = convolutions(network, x)
    stem = found[0]
    device = str(x.device)
    times = {each: _fastest(each, device, repeats) for each in set(found)}
    counts = Counter(found)
    flops: dict[str, float] = dict.fromkeys(PARTS, sum(each.flops for each in found))
    flops["hidden"] -= stem.flops
    seconds = {
        part: sum(count * times[each][part] for each, count in counts.items())
        for part in ("forward", "input", "weights")
    }
    seconds["hidden"] = seconds["input"] - times[stem]["input"]
    return Limit(flops, seconds, len(x))


def _fastest(convolution: Convolution, device: str, repeats: int) -> dict[str, float]:
    x, weight, gradient = (
        torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        for shape in (convolution.x, convolution.weight, convolution.out)
    )
    stride, padding, groups = convolution.stride, convolution.padding, convolution.groups

    def forward() -> Tensor:
        return torch.conv2d(x, weight, None, stride, padding, 1, groups)

    def backward(*, to_input: bool) -> object:
        return torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            stride,
            padding,
            (1, 1),
            False,
            (0, 0),
            groups,
            (to_input, not to_input, False),
        )

    parts = {
        "forward": forward,
        "input": lambda: backward(to_input=True),
        "weights": lambda: backward(to_input=False),
    }
    times = {}
    with torch.no_grad():
        for part, run in parts.items():
            run()  # kernels are chosen at the first call
            times[part] = min(elapsed(run, device)[0] for _ in range(3 * repeats))
    return times
