"""Bias and leaky ReLU that remember one bit an element:  y = leaky(x + bias[channel]).

The gradient of a piecewise linear activation needs the sign of its input alone. So the forward pass
writes that sign, packed, beside y, and the backward pass reads it instead of a saved activation:
1/8 byte an element kept, not 4 (fp32) or 2 (bf16), and 8 1/8 bytes moved backward, not 12.

A hand-written gradient of a network (`coophash.sampling` runs one at each Langevin step) is a chain
of such pieces, without an autograd graph:

    forward    y, bits = first_conv(x, w1, b1, ...)           convolution, bias, activation: one op
               y, bits = bias_leaky_relu_bits(F.conv2d(y, w2), b2, slope)      for each next layer
               energy, grad = energy_head(...)                                 the gradient at y
    backward   grad = leaky_relu_backward(grad, bits, slope)[0]                from the last layer
               grad = torch.nn.grad.conv2d_input(y.shape, w2, grad, ...)       to the second
               x = first_conv_langevin(x, grad, bits, w1, ...)                 the first; the step

In a network that autograd trains, `bias_leaky_relu(F.conv2d(x, weight), bias, slope)` stands for
`F.leaky_relu(F.conv2d(x, weight, bias), slope)`.

The kernels are in leaky_relu_triton.py; bytes and instructions in kernels/README.md.
Check it, time it: pytest tests/kernels/test_leaky_relu.py && pytest benchmarks/bench_leaky_relu.py
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from coophash.kernels._backend import use_triton
from coophash.kernels._library import register

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channel_is_innermost(x: Tensor) -> bool:
    """Whether neighbours in memory are channels: (B, C), channels_last maps, maps of one pixel."""
    if x.dim() == 2 or math.prod(x.shape[2:]) == 1:
        return True
    return (
        x.dim() in _LAST and not x.is_contiguous() and x.is_contiguous(memory_format=_LAST[x.dim()])
    )


def bits_shape(x: Tensor) -> tuple[int, ...]:
    """Shape of the bits of a dense x: its shape in the order of memory, the last axis packed.

    (B, C, H, W) row-major -> (B, C, ceil(H · W / 8)); channels_last -> (B, H, W, ceil(C / 8));
    (B, C) -> (B, ceil(C / 8)).
    """
    batch, channels, *space = x.shape
    if channel_is_innermost(x):
        return (batch, *space, -(-channels // 8))
    return (batch, channels, -(-math.prod(space) // 8))


def pack_signs(x: Tensor) -> Tensor:
    """The bits x > 0 of a dense x, as every op here stores them. Through NumPy, on the host.

    Memory is cut into rows: the planes of a row-major map, the channels of one pixel where channels
    are innermost. A row is packed as a code is: bit j at place j % 8 of byte j // 8, spare bits 0.

    x: (B, C, …). Returns uint8 of `bits_shape(x)`.
    """
    positive = x > 0
    rows = positive.movedim(1, -1) if channel_is_innermost(x) else positive.flatten(2)
    packed = np.packbits(rows.contiguous().cpu().numpy(), axis=-1, bitorder="little")
    return torch.from_numpy(packed.reshape(-1)).to(x.device).view(bits_shape(x))


def unpack_signs(bits: Tensor, shape: torch.Size) -> Tensor:
    """The bool tensor of `shape` whose bits these are, laid out in memory as they say."""
    _, channels, *space = shape
    by_plane = _bits_by_plane(bits, shape)
    unit = math.prod(space) if by_plane else channels
    rows = np.unpackbits(bits.cpu().numpy(), axis=-1, count=unit, bitorder="little")
    positive = torch.from_numpy(rows.view(np.bool_)).to(bits.device)
    return positive.reshape(shape) if by_plane else positive.movedim(-1, 1)


def _bits_by_plane(bits: Tensor, shape: torch.Size) -> bool:
    """Whether these bits are those of row-major planes, not of pixels; raises where of neither."""
    batch, channels, *space = shape
    if len(space) > 0 and bits.shape == (batch, channels, -(-math.prod(space) // 8)):
        return True
    torch._check(  # type: ignore[no-untyped-call]
        bits.shape == (batch, *space, -(-channels // 8)),
        lambda: (
            f"bits of shape {tuple(bits.shape)} are not those of an activation of shape "
            f"{tuple(shape)}: hand over what the forward op returned"
        ),
    )
    return False


def dense(x: Tensor) -> Tensor:
    """x itself where its memory is row-major or channels_last without gaps, else a copy."""
    last = x.dim() in _LAST and x.is_contiguous(memory_format=_LAST[x.dim()])
    return x if last else x.contiguous()


def as_bits(x: Tensor, bits: Tensor) -> Tensor:
    """x laid out densely in the order in which the bits were packed."""
    by_plane = _bits_by_plane(bits, x.shape)
    if by_plane or x.dim() not in _LAST or math.prod(x.shape[2:]) == 1:
        return x.contiguous()
    return x.contiguous(memory_format=_LAST[x.dim()])


def like_layout(value: Tensor, model: Tensor) -> Tensor:
    """value with the strides of the dense model, which a fake promised."""
    if value.stride() == model.stride():
        return value
    return torch.empty_like(model, dtype=value.dtype).copy_(value)


def _along_channel(vector: Tensor, dims: int) -> Tensor:
    return vector.view(-1, *[1] * (dims - 2))


def bias_leaky_relu_reference(x: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """The same function in PyTorch's own pieces: what the CPU trains with, and its gradients.

    In place on the sum: PyTorch then keeps y, which the next layer keeps anyway, and no other copy.
    """
    if bias is None:
        return F.leaky_relu(x, slope)
    return F.leaky_relu_(x + _along_channel(bias, x.dim()), slope).to(x.dtype)


def run_reference(x: Tensor, bias: Tensor | None, slope: float) -> tuple[Tensor, Tensor]:
    x = dense(x)
    z = x if bias is None else x.to(_compute(x)) + _along_channel(bias, x.dim()).to(_compute(x))
    return like_layout(F.leaky_relu(z, slope).to(x.dtype), x), pack_signs(z)


def run_backward_reference(
    grad: Tensor, bits: Tensor, slope: float, bias_grad: bool
) -> tuple[Tensor, Tensor]:
    grad = as_bits(grad, bits)
    # PyTorch's own backward, of an input of ones and zeros; torch.where takes six times as long.
    sign = unpack_signs(bits, grad.shape).to(_compute(grad))
    passed = torch.ops.aten.leaky_relu_backward(grad.to(sign.dtype), sign, slope, False)
    rounded = like_layout(passed.to(grad.dtype), grad)
    if not bias_grad:
        return rounded, _bias_grad_like(grad, 0)
    return rounded, passed.sum([0, *range(2, grad.dim())])


def _compute(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _bias_grad_like(grad: Tensor, channels: int) -> Tensor:
    return torch.empty(channels, dtype=_compute(grad), device=grad.device)


def _fake(x: Tensor, bias: Tensor | None, slope: float) -> tuple[Tensor, Tensor]:
    x = dense(x)
    return torch.empty_like(x), torch.empty(bits_shape(x), dtype=torch.uint8, device=x.device)


def _fake_backward(
    grad: Tensor, bits: Tensor, slope: float, bias_grad: bool
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(as_bits(grad, bits))
    return out, _bias_grad_like(grad, grad.shape[1] if bias_grad else 0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, bias, ctx.slope = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    (bits,) = ctx.saved_tensors
    wanted = ctx.needs_input_grad[1]
    passed, summed = _leaky_relu_backward(upstream, bits, ctx.slope, wanted)
    return passed, summed.to(ctx.bias_dtype) if wanted else None, None


def _setup_double(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, bits, ctx.slope, ctx.bias_grad = inputs
    ctx.save_for_backward(bits)


def _double_backward(ctx: Any, upstream: Tensor, summed: Tensor) -> tuple[Tensor | None, ...]:
    """The map is linear in grad and its own transpose."""
    (bits,) = ctx.saved_tensors
    if ctx.bias_grad:
        upstream = upstream + _along_channel(summed, upstream.dim()).to(upstream.dtype)
    return _leaky_relu_backward(upstream, bits, ctx.slope, False)[0], None, None, None


_bias_leaky_relu = register(
    "bias_leaky_relu(Tensor x, Tensor? bias, float slope) -> (Tensor, Tensor)",
    reference=run_reference,
    triton="coophash.kernels.leaky_relu_triton:bias_leaky_relu",
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
_leaky_relu_backward = register(
    "leaky_relu_backward(Tensor grad, Tensor bits, float slope, bool bias_grad)"
    " -> (Tensor, Tensor)",
    reference=run_backward_reference,
    triton="coophash.kernels.leaky_relu_triton:leaky_relu_backward",
    fake=_fake_backward,
    setup_context=_setup_double,
    backward=_double_backward,
)


def bias_leaky_relu(x: Tensor, bias: Tensor | None = None, slope: float = 0.01) -> Tensor:
    """leaky_relu(x + bias), whose backward pass reads one bit an element.

    Stands for F.leaky_relu(x + bias.view(-1, 1, 1), slope), or, with the bias taken out of the
    convolution before it, for F.leaky_relu(F.conv2d(x, weight, bias), slope). Differentiable any
    number of times; at 0 the derivative is `slope`, as in PyTorch.

    On CUDA the Triton kernel adds in float32 and rounds once, and keeps the packed signs. Where
    Triton does not run, and for float64, PyTorch's own ops compute the same.

    Args:
        x: (B, C) or (B, C, …) floating point; row-major and channels_last without a copy.
        bias: (C,) floating point, its dtype may differ from that of x; or None.
        slope: of the negative side, >= 0; 0 is ReLU.

    Returns:
        (B, C, …) of the dtype and memory format of x.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range.
    """
    _check(x, bias, slope)
    if runs_plain(x):
        return bias_leaky_relu_reference(x, bias, slope)
    return _bias_leaky_relu(x, bias, slope)[0]  # type: ignore[no-any-return]


def bias_leaky_relu_bits(
    x: Tensor, bias: Tensor | None = None, slope: float = 0.01
) -> tuple[Tensor, Tensor]:
    """`bias_leaky_relu` that returns the packed signs too, for a hand-written backward pass.

    Args: as of `bias_leaky_relu`.

    Returns:
        y: (B, C, …) of the dtype and memory format of x.
        bits: uint8, x + bias > 0, in the order of memory with the last axis packed, least
            significant bit first, spare bits 0: (B, C, ceil(H · W / 8)) for row-major x,
            (B, H, W, ceil(C / 8)) for channels_last, (B, ceil(C / 8)) for (B, C).

    Raises: as `bias_leaky_relu`.
    """
    _check(x, bias, slope)
    return _bias_leaky_relu(x, bias, slope)  # type: ignore[no-any-return]


def leaky_relu_backward(
    grad: Tensor, bits: Tensor, slope: float, *, bias_grad: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The gradient through leaky ReLU from the bits of its input.

    Args:
        grad: (B, C, …) floating point, the gradient with respect to y.
        bits: of `bias_leaky_relu_bits` or `first_conv`.
        slope: as in the forward pass.
        bias_grad: whether to sum the gradient of the bias too.

    Returns:
        The gradient with respect to x, (B, C, …) of the dtype of grad, laid out as the forward
        pass's y; and (C,) float32 (float64 for float64), its sum over all but the channel, or None.
        The sum has a fixed order: two runs give the same bits.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range.
    """
    check_activation("grad", grad)
    check_bits(bits, grad)
    check_slope(slope)
    passed, summed = _leaky_relu_backward(grad, bits, slope, bias_grad)
    return passed, summed if bias_grad else None


def runs_plain(x: Tensor) -> bool:
    """Whether PyTorch's own ops run: packing bits pays only where a kernel does it."""
    if x.dtype == torch.float64:
        return True
    # A traced graph chooses by device; the environment is the op's matter when it runs.
    return (
        x.device.type != "cuda" if torch.compiler.is_compiling() else not use_triton(x.device.type)
    )


def check_activation(name: str, value: Any) -> None:
    """Raise unless value is a floating-point tensor of (B, C, …)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be float32, bfloat16, float16 or float64, got {value.dtype}: "
            f"call {name}.float() first"
        )
    if value.dim() < 2:
        raise ValueError(f"{name} must be (B, C) or (B, C, …), got {tuple(value.shape)}")


def check_bits(bits: Any, grad: Tensor) -> None:
    """Raise unless bits are those of an activation of the shape of grad."""
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8:
        kind = bits.dtype if isinstance(bits, Tensor) else type(bits).__name__
        raise TypeError(f"bits must be the uint8 tensor of the forward op, got {kind}")
    batch, channels, *space = grad.shape
    pixels = math.prod(space)
    allowed = [(batch, *space, -(-channels // 8))]
    if space:
        allowed.append((batch, channels, -(-pixels // 8)))
    if tuple(bits.shape) not in allowed:
        raise ValueError(
            f"bits must be of shape {' or '.join(map(str, allowed))} for a gradient of shape "
            f"{tuple(grad.shape)}, got {tuple(bits.shape)}: hand over what the forward op returned"
        )
    if bits.device != grad.device:
        raise ValueError(f"bits must be on {grad.device} like the gradient, got {bits.device}")


def check_slope(slope: Any) -> None:
    """Raise unless slope is a finite number >= 0."""
    if not isinstance(slope, Real):
        raise TypeError(f"slope must be a number, got {type(slope).__name__}")
    if not 0.0 <= float(slope) < math.inf:
        raise ValueError(f"slope must be a finite number >= 0, got {slope!r}")


def check_bias(bias: Any, channels: int, device: torch.device) -> None:
    """Raise unless bias is None or a floating-point tensor of (channels,) on the device."""
    if bias is None:
        return
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a torch.Tensor or None, got {type(bias).__name__}")
    if bias.dtype not in _DTYPES:
        raise TypeError(f"bias must be floating point, got {bias.dtype}: call bias.float() first")
    if bias.shape != (channels,):
        raise ValueError(
            f"bias must be ({channels},), one number a channel, got {tuple(bias.shape)}"
        )
    if bias.device != device:
        raise ValueError(f"bias must be on {device} like x, got {bias.device}")


def _check(x: Any, bias: Any, slope: Any) -> None:
    check_activation("x", x)
    check_bias(bias, x.shape[1], x.device)
    check_slope(slope)
