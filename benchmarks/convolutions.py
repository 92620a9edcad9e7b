"""What the convolutions of a network cost, and how fast this machine can do them at best."""

from collections import Counter
from collections.abc import Callable, Mapping
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

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution."""
        return torch.conv2d(x, weight, None, self.stride, self.padding, 1, self.groups)

    def backward(self, gradient: Tensor, x: Tensor, weight: Tensor, *, to_input: bool) -> Tensor:
        """Gradient of the input, or else of the weights."""
        wanted = (to_input, not to_input, False)
        found = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            (1, 1),
            False,
            (0, 0),
            self.groups,
            wanted,
        )
        return found[0 if to_input else 1]


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
        seconds: The best times measured, each convolution alone: what it reads and writes is in the
            cache.
        in_order: The same for ``"forward"`` and ``"input"`` with one convolution after the other on
            the former one's result, as in a network.
        images: Images of the batch.
    """

    flops: Amounts
    seconds: Amounts
    in_order: Amounts
    images: int

    def floor(self, passes: Amounts, *, images: int) -> float:
        """Seconds of so many ``passes`` of ``images`` that are nothing but convolutions."""
        each = sum(count * self.in_order[part] for part, count in passes.items())
        return each * images / self.images

    def reached(self, passes: Amounts, *, images: int, seconds: float) -> dict[str, float]:
        """What ``seconds`` for so many ``passes`` of each of ``images`` are of the possible."""
        batches = images / self.images
        flops = batches * sum(count * self.flops[part] for part, count in passes.items())
        best = batches * sum(count * self.seconds[part] for part, count in passes.items())
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
    return Limit(flops, seconds, _in_order(found, device, repeats), len(x))


def _in_order(found: list[Convolution], device: str, repeats: int) -> dict[str, float]:
    """Best times of all convolutions of an attack's pass, forwards and then backwards."""
    given = {shape: _random(shape, device) for each in found for shape in (each.x, each.out)}
    weights = [_random(each.weight, device) for each in found]
    inputs: list[Tensor] = []

    def forward() -> None:
        inputs.clear()
        out = given[found[0].x]
        for each, weight in zip(found, weights, strict=True):
            # Where pooling or another branch lies between, it begins anew.
            inputs.append(out if out.shape == each.x else given[each.x])
            out = each.forward(inputs[-1], weight)

    def backward() -> None:
        gradient = given[found[-1].out]
        for each, weight, x in zip(found[::-1], weights[::-1], inputs[::-1], strict=True):
            gradient = gradient if gradient.shape == each.out else given[each.out]
            gradient = each.backward(gradient, x, weight, to_input=True)

    times: dict[str, list[float]] = {"forward": [], "input": []}
    with torch.no_grad():
        for _ in range(3 * repeats + 1):
            times["forward"].append(elapsed(forward, device)[0])
            times["input"].append(elapsed(backward, device)[0])
    return {part: min(seconds[1:]) for part, seconds in times.items()}


def _random(shape: tuple[int, ...], device: str) -> Tensor:
    return torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)


def _fastest(convolution: Convolution, device: str, repeats: int) -> dict[str, float]:
    x, weight, gradient = (
        _random(shape, device) for shape in (convolution.x, convolution.weight, convolution.out)
    )
    parts: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: convolution.forward(x, weight),
        "input": lambda: convolution.backward(gradient, x, weight, to_input=True),
        "weights": lambda: convolution.backward(gradient, x, weight, to_input=False),
    }
    times = {}
    with torch.no_grad():
        for part, run in parts.items():
            run()  # kernels are chosen at the first call
            times[part] = min(elapsed(run, device)[0] for _ in range(3 * repeats))
    return times
