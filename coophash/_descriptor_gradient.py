"""Energy and input gradient of the convolutional descriptor, by hand.

A Langevin step needs dE/dx alone, of a network that does not change in the course of a chain, so it
can do with less than autograd, which lays out, saves and frees a graph at each step:

    forward    y = leaky(conv(x) + b) for each layer; E and dE/df of the head
    backward   through the signs of y, then the transposed convolution, layer by layer

On a GPU the kernels keep one bit for each activation, and the last one of the way back also makes
the Langevin step. On the CPU y itself is kept, and the time goes into PyTorch's convolutions, which
there are up to four times as fast with channels last; the input gradient of the first layer, whose
few channels they like least, is a sub-pixel convolution: a third of the time (docs/LOG.md has the
figures).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from coophash._chain_energy import StepArguments
from coophash.kernels._backend import use_triton
from coophash.kernels.energy import energy_head_and_grad
from coophash.kernels.first_layer import first_conv_bits
from coophash.kernels.first_layer_langevin import first_conv_input_grad
from coophash.kernels.leaky_relu import bias_leaky_relu_bits, leaky_relu_backward
from coophash.networks import ConvBase
from coophash.spectral import stands_still


def applies(base: nn.Module, head: nn.Module, x: Tensor) -> bool:
    """Whether the hand-written gradient is that of these modules, and faster on x's device."""
    if not (fuses(x) or x.device.type == "cpu") or type(base) is not ConvBase or x.dim() != 4:
        return False
    layers = [*base.convolutions, base.dense, head]
    plain = [nn.Conv2d] * len(base.convolutions) + [nn.Linear] * 2
    return _as_made(base) and all(
        (type(layer) is kind or stands_still(layer, kind)) and _as_made(layer)
        for layer, kind in zip(layers, plain, strict=True)
    )


def fuses(x: Tensor) -> bool:
    """Whether the kernels run on x, the one of `energy_and_update` among them."""
    return x.dtype != torch.float64 and use_triton(x.device.type)


def _as_made(module: nn.Module) -> bool:
    """Without hooks, which only a call of the module would run."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def energy_and_grad(
    base: ConvBase, head: nn.Linear, x: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Energies (B,) of x (B, C, H, W) under its labels (B,), and dE/dx in the shape of x.

    The caller has asked `applies`, and runs it without a graph.
    """
    if not fuses(x):
        return _plainly(base, head, x, labels)
    energies, grad, bits = _to_first_layer(base, head, x, labels)
    layer = base.convolutions[0]
    assert isinstance(layer, nn.Conv2d)
    stride, padding = _pairs(layer)
    return energies, first_conv_input_grad(
        grad, bits, layer.weight, base.slope, stride=stride, padding=padding,
        size=(x.shape[2], x.shape[3]),
    )  # fmt: skip


def energy_and_update(
    base: ConvBase, head: nn.Linear, x: Tensor, labels: Tensor, step: StepArguments
) -> tuple[Tensor, Tensor]:
    """Energies (B,) of x, and x after a Langevin step: the gradient's last kernel makes it.

    The caller has asked `applies` and `fuses`, and runs it without a graph.
    """
    energies, grad, bits = _to_first_layer(base, head, x, labels)
    layer = base.convolutions[0]
    assert isinstance(layer, nn.Conv2d)
    moved = torch.ops.coophash.first_conv_langevin(
        x, grad, bits, layer.weight, None, base.slope, *_pairs(layer), *step
    )
    return energies, moved


def _to_first_layer(
    base: ConvBase, head: nn.Linear, x: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Energies; their gradient with respect to the first layer's output; the bits of that."""
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    half = dtype in (torch.bfloat16, torch.float16)  # on tensor cores: channels last
    kept: list[tuple[nn.Conv2d, torch.Size, Tensor]] = []
    y = x
    for i, layer in enumerate(base.convolutions):
        assert isinstance(layer, nn.Conv2d)
        shape = y.shape
        if i == 0:
            stride, padding = _pairs(layer)
            y, bits = first_conv_bits(
                x.to(dtype), layer.weight.to(dtype), layer.bias, base.slope, stride=stride,
                padding=padding, channels_last=half,
            )  # fmt: skip
        else:
            z = F.conv2d(y, layer.weight, None, layer.stride, layer.padding)
            y, bits = bias_leaky_relu_bits(z, layer.bias, base.slope)
        kept.append((layer, shape, bits))
    energies, grad = _top(base, head, y, labels)
    for layer, shape, bits in reversed(kept[1:]):
        grad, _ = leaky_relu_backward(grad, bits, base.slope)
        weight = layer.weight.to(grad.dtype, memory_format=_format(grad))
        grad = conv2d_input(shape, weight, grad, layer.stride, layer.padding)  # type: ignore[no-untyped-call]
    return energies, grad, kept[0][2]


def _plainly(base: ConvBase, head: nn.Linear, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    kept: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    y = x.to(memory_format=torch.channels_last)  # contiguous() keeps the strides of one channel
    for layer in base.convolutions:
        assert isinstance(layer, nn.Conv2d)
        before = y
        z = F.conv2d(before, layer.weight, layer.bias, layer.stride, layer.padding)
        y = F.leaky_relu_(z, base.slope)
        kept.append((layer, before, y))
    energies, grad = _top(base, head, y, labels)
    for i, (layer, before, y) in reversed(list(enumerate(kept))):
        # The signs of y are those of its input. In place: fresh memory costs more than the sums.
        torch.ops.aten.leaky_relu_backward.grad_input(grad, y, base.slope, True, grad_input=grad)
        weight = layer.weight.to(grad.dtype)
        if i == 0 and layer.stride == (2, 2):
            grad = _strided_conv_input_grad(before.shape, weight, grad, _pairs(layer)[1][0])
        else:
            grad = torch.ops.aten.convolution_backward(
                grad, before, weight, None, layer.stride, layer.padding, layer.dilation, False,
                (0, 0), layer.groups, (True, False, False),
            )[0]  # fmt: skip
    return energies, grad.contiguous()


def _top(base: ConvBase, head: nn.Linear, y: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Energies from the last map y, and their gradient with respect to it."""
    z = F.linear(y.flatten(1), base.dense.weight, base.dense.bias)
    energies, grad = energy_head_and_grad(z, head.weight, head.bias, labels, slope=base.slope)
    grad = grad @ base.dense.weight.to(grad.dtype)
    return energies, grad.to(y.dtype).view(y.shape).to(memory_format=_format(y))


def _format(y: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if y.is_contiguous(memory_format=last) else torch.contiguous_format


def _pairs(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and padding of rows and columns."""
    (down, across), padding = layer.stride, layer.padding
    assert not isinstance(padding, str)
    return (down, across), (padding[0], padding[1])


def _strided_conv_input_grad(shape: torch.Size, weight: Tensor, grad: Tensor, pad: int) -> Tensor:
    """Input gradient of a convolution of stride 2 with a square kernel, padded alike all around.

    Input pixel 2q + r gets from output pixel q + d the weight at r + pad - 2d. So the pixels of a
    parity r are a plain convolution of grad with every other weight, and all four parities together
    are one, whose output channels are dealt out to the pixels.
    """
    channels = shape[1]
    index, low, high = _parity_taps(weight.shape[2], pad)
    padded = F.pad(weight, (0, 1, 0, 1))  # a zero at the end, for taps outside of the kernel
    taps = padded[:, :, index[:, :, None, None], index[None, None]]  # (O, C, 2, n, 2, n)
    split = taps.permute(1, 2, 4, 0, 3, 5).reshape(
        4 * channels, *taps.shape[:1], *index.shape[1:] * 2
    )
    # Pairs of pixels that the output does not reach down to get a 0.
    below, right = (
        (size + 1) // 2 - out for size, out in zip(shape[2:], grad.shape[2:], strict=True)
    )
    if -low == high and not below and not right:
        parts = F.conv2d(grad, split, padding=high)
    else:
        parts = F.conv2d(F.pad(grad, (-low, high + right, -low, high + below)), split)
    return F.pixel_shuffle(parts, 2)[..., : shape[2], : shape[3]]


@functools.cache
def _parity_taps(kernel: int, pad: int) -> tuple[Tensor, int, int]:
    """Of parity r in row r: the weight that meets offset d, `kernel` for none. And d's range."""
    low = min((r + pad - kernel + 2) // 2 for r in (0, 1))
    high = max((r + pad) // 2 for r in (0, 1))
    rows = [[r + pad - 2 * d for d in range(low, high + 1)] for r in (0, 1)]
    index = [[tap if 0 <= tap < kernel else kernel for tap in row] for row in rows]
    return torch.tensor(index), low, high
