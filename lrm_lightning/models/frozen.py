"""Building blocks of a network's view: the fast copy that attacks on a CPU differentiate.

While an attack searches, the weights are constant and only the gradient of the images is wanted.
Batch norm is then a constant scale and shift; the one between the two convolutions of a residual
unit is folded into the weights of the first. The unit is one node of the graph: it keeps the two
tensors that its own backward pass needs and changes gradients in place. On a CPU this is faster,
because such a network spends more than half of its time outside its convolutions.

Each family of networks has a function ``frozen`` that builds the view from these blocks. Its
argument ``dtype`` is the type of the activations between the first convolution and the last; logits
and the gradient of the images have the type of the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = Callable[[Tensor], Tensor]

_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input
_convolution_backward = torch.ops.aten.convolution_backward


class FrozenNetwork(nn.Module):
    """Layers without parameters, one after another; each chooses the type that it computes in."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            for layer in self.layers:
                x = layer(x)
        return x


# The most blocks that a stage may have: a mistyped number would else fill the memory with modules.
MOST_BLOCKS = 1000


class Affine:
    """Batch norm in eval mode, as it is now: ``scale * x + shift``, both ``(1, C, 1, 1)``."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = bn.weight.detach() * (bn.running_var + bn.eps).rsqrt()
        self.scale = scale.view(1, -1, 1, 1)
        self.shift = (bn.bias.detach() - bn.running_mean * scale).view(1, -1, 1, 1)

    def activated(self, x: Tensor, slope: float) -> Tensor:
        """``leaky_relu(scale * x + shift)``, shape and type of ``x``."""
        if x.dtype == self.scale.dtype:
            return F.leaky_relu_(torch.addcmul(self.shift, x, self.scale), slope)
        # Batch norm is the one operation that takes images in bfloat16 with a scale in float32.
        scale, shift = self.scale.flatten(), self.shift.flatten()
        # Some releases of torch refuse an eps of 0 (2.11 does); the variance makes up for it.
        mean, variance, eps = torch.zeros_like(scale), torch.full_like(scale, 0.5), 0.5
        return F.leaky_relu_(F.batch_norm(x, mean, variance, scale, shift, eps=eps), slope)


class Convolution:
    """A convolution with its weights as they are now.

    Args:
        conv: Convolution with an odd kernel, the same in both directions, padded to keep the size
            but for the stride; no dilation, groups or bias.
        dtype: Type that it computes in.
        input_norm: Batch norm before it. :meth:`backward` multiplies by its scale.
        output_norm: Batch norm after it, which becomes part of the weights and of a bias.
        turned: Whether its images are turned by half a circle. Padding below and to the right,
            which TensorFlow adds at a stride of 2, is then above and to the left, where torch's own
            padding counts, so that no padded copy is made.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        dtype: torch.dtype,
        *,
        input_norm: Affine | None = None,
        output_norm: Affine | None = None,
        turned: bool = False,
    ) -> None:
        weight, self._bias = conv.weight.detach().clone(), None
        if output_norm is not None:
            weight = weight * output_norm.scale.view(-1, 1, 1, 1)
            self._bias = output_norm.shift.flatten().to(dtype)
        if turned:
            weight = weight.flip(2, 3)
        self._stride, self._padding = list(conv.stride), [size // 2 for size in conv.kernel_size]
        backward = weight if input_norm is None else weight * input_norm.scale
        self._weight, self._weight_backward = (
            each.to(dtype).contiguous(memory_format=torch.channels_last)
            for each in (weight, backward)
        )

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._weight, self._bias, self._stride, self._padding)

    def backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient of the input ``x``, times the scale of the batch norm before it."""
        weight, stride, padding = self._weight_backward, self._stride, self._padding
        dilation, transposed, output_padding, groups = [1, 1], False, [0, 0], 1
        wanted = [True, False, False]  # of the input alone, not of the weight and the bias
        shape = (stride, padding, dilation, transposed, output_padding, groups)
        return _convolution_backward(gradient, x, weight, None, *shape, wanted)[0]


@dataclass(frozen=True, kw_only=True)
class FrozenUnit:
    """Residual unit: twice batch norm, leaky ReLU and convolution, and a shortcut around them."""

    input_norm: Affine
    first: Convolution  # with input_norm before it and its own batch norm after it
    second: Convolution
    slope: float  # of both leaky ReLUs below 0; 0 is ReLU
    shortcut_active: bool = False  # the shortcut begins after the first leaky ReLU, not at x
    pool: int = 1  # size of the windows whose mean the shortcut takes
    new_channels: int = 0  # channels of zeros that the shortcut adds, half on each side
    projection: Convolution | None = None  # in the shortcut, with input_norm before it

    def __call__(self, x: Tensor) -> Tensor:
        return _UnitFunction.apply(x, self)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and both activations, which :meth:`backward` needs."""
        active = self.input_norm.activated(x, self.slope)
        hidden = F.leaky_relu_(self.first(active), self.slope)
        result = self.second(hidden)
        result += self._shortcut(active if self.shortcut_active else x)
        return result, active, hidden

    def backward(self, gradient: Tensor, active: Tensor, hidden: Tensor) -> Tensor:
        """Gradient of the input from that of the result."""
        inner = self.second.backward(gradient, hidden)
        _leaky_relu_backward(inner, hidden, self.slope, True, grad_input=inner)
        inner = self.first.backward(inner, active)
        around = self._shortcut_backward(gradient, active)
        if self.shortcut_active:
            inner += around
        _leaky_relu_backward(inner, active, self.slope, True, grad_input=inner)
        if not self.shortcut_active:
            inner += around
        return inner

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            return self.projection(x)
        if self.pool > 1:
            x = F.avg_pool2d(x, self.pool)
        half = self.new_channels // 2
        return F.pad(x, (0, 0, 0, 0, half, half)) if half else x

    def _shortcut_backward(self, gradient: Tensor, active: Tensor) -> Tensor:
        if self.projection is not None:
            return self.projection.backward(gradient, active)
        half = self.new_channels // 2
        gradient = gradient[:, half : gradient.shape[1] - half]
        if self.pool > 1:
            gradient = F.interpolate(gradient * self.pool**-2, scale_factor=self.pool)
        return gradient * self.input_norm.scale.to(gradient) if self.shortcut_active else gradient


def frozen_head(bn: nn.BatchNorm2d, linear: nn.Linear, slope: float) -> Layer:
    """Batch norm, leaky ReLU, mean over the pixels, linear layer; in the type of the weights."""
    affine = Affine(bn)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()

    def layer(x: Tensor) -> Tensor:
        x = x.to(weight.dtype)
        active = F.leaky_relu(torch.addcmul(affine.shift, x, affine.scale), slope)
        return F.linear(active.mean(dim=(2, 3)), weight, bias)

    return layer


class _UnitFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, unit: FrozenUnit) -> Tensor:  # noqa: ANN401
        result, active, hidden = unit.forward(x)
        ctx.save_for_backward(active, hidden)
        ctx.unit = unit
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        if torch.is_grad_enabled():  # once_differentiable would let torch.autograd.grad pass
            raise RuntimeError("the fast engine has no second derivatives: use engine='reference'")
        return ctx.unit.backward(gradient, *ctx.saved_tensors), None
