"""A pre-activation residual unit whose weights stand still, differentiated for its input by hand.

A CPU spends more than half of such a network's time outside its convolutions, moving activations.
So a unit is one node of the graph: it keeps the two tensors that its backward pass needs, works on
gradients where they lie, and leaves batch norm's scale to the weights wherever it can.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input
_convolution_backward = torch.ops.aten.convolution_backward


class Affine:
    """Batch norm in eval mode, with its weights as they are now.

    Args:
        bn: With running statistics.

    Attributes:
        scale: Shape ``(1, C, 1, 1)``.
        shift: Shape ``(1, C, 1, 1)``.
    """

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
        # The one operation that takes images in bfloat16 with a scale in float32, and the faster
        # one for them by far.
        scale, shift = self.scale.flatten(), self.shift.flatten()
        mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
        return F.leaky_relu_(F.batch_norm(x, mean, variance, scale, shift, eps=0.0), slope)


class Convolution:
    """A convolution with its weights as they are now.

    Args:
        conv: Equal strides and an odd kernel, the same in both directions, padded to keep the size
            but for the stride; no dilation or groups, no bias.
        before: What scales its input, in the gradient alone.
        after: What follows it, folded into it.
        mirrored: Whether the images it sees are turned by half a circle. Padding that ``conv``
            leaves to somebody else below and to the right of an image of even size, as TensorFlow
            pads for a stride of 2, lies above and to the left then: where torch begins to pad by
            itself, with no padded copy of the image.
        dtype: What it computes in.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        before: Affine | None = None,
        after: Affine | None = None,
        mirrored: bool = False,
        dtype: torch.dtype,
    ) -> None:
        weight, self._bias = conv.weight.detach().clone(), None
        if after is not None:
            weight = weight * after.scale.view(-1, 1, 1, 1)
            self._bias = after.shift.flatten().to(dtype)
        if mirrored:
            weight = weight.flip(2, 3)
        self._stride, self._padding = list(conv.stride), [size // 2 for size in conv.kernel_size]
        # What multiplies the gradient afterwards may as well multiply the weights before.
        backward = weight if before is None else weight * before.scale
        self._weight, self._weight_backward = (
            each.to(dtype).contiguous(memory_format=torch.channels_last)
            for each in (weight, backward)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, H', W')``."""
        return F.conv2d(x, self._weight, self._bias, self._stride, self._padding)

    def backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient of the input, of which ``x`` has the shape, times the scale before it."""
        return _convolution_backward(
            gradient,
            x,
            self._weight_backward,
            None,
            self._stride,
            self._padding,
            [1, 1],
            False,
            [0, 0],
            1,
            [True, False, False],
        )[0]


@dataclass(frozen=True, kw_only=True)
class FrozenUnit:
    """Affine, leaky ReLU, convolution, leaky ReLU, convolution, and a shortcut around them.

    Attributes:
        before: Batch norm of the input.
        first: First convolution, the following batch norm folded in; scaled by ``before``.
        second: Second convolution.
        slope: Of both leaky ReLUs, ``>= 0``; 0 is ReLU.
        shortcut_active: The shortcut begins after the first leaky ReLU.
        pool: Size of the windows whose mean the shortcut takes.
        new_channels: Channels of zeros that the shortcut adds, half on each side.
        projection: Convolution in the shortcut, scaled by ``before``.
    """

    before: Affine
    first: Convolution
    second: Convolution
    slope: float
    shortcut_active: bool = False
    pool: int = 1
    new_channels: int = 0
    projection: Convolution | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C', H', W')``."""
        return _Unit.apply(x, self)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and what :meth:`backward` needs: both activations."""
        active = self.before.activated(x, self.slope)
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
        return gradient * self.before.scale.to(gradient) if self.shortcut_active else gradient


class _Unit(torch.autograd.Function):
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
