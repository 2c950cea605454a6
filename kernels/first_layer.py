"""The first layer of a network of images:  y = leaky(conv(x, weight) + bias), and one bit of each.

Few input channels make it a layer of memory, not of arithmetic: written as a convolution and an
activation, its output goes to memory three times. `first_conv` writes it once, with the packed
signs of `leaky_relu.py`; its backward pass reads those. `first_conv_input_grad` is the gradient
with respect to the image alone, which the Langevin chain wants; `first_layer_langevin.py` makes it
and takes the step in one kernel. How the pieces chain is said in leaky_relu.py.

The kernels are in first_layer_triton.py and first_layer_langevin_triton.py; bytes and instructions
in kernels/README.md.
Check it: pytest tests/kernels/test_first_layer.py; time it: pytest benchmarks/bench_first_layer.py
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from coophash.kernels._library import register
from coophash.kernels.leaky_relu import (
    as_bits,
    bits_shape,
    check_activation,
    check_bias,
    check_bits,
    check_slope,
    leaky_relu_backward,
    like_layout,
    pack_signs,
    run_backward_reference,
    runs_plain,
)

Pair: TypeAlias = int | tuple[int, int]


def first_conv_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float,
    stride: Pair,
    padding: Pair,
    channels_last: bool,
) -> Tensor:
    """The same function in PyTorch's own pieces: what the CPU trains with, and its gradients.

    The activation is in place: a convolution keeps its input, not its output.
    """
    if bias is not None:
        bias = bias.to(x.dtype)
    y = F.leaky_relu_(F.conv2d(x, weight, bias, stride, padding), slope)
    return y.contiguous(memory_format=memory_format(channels_last))


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _compute(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def empty_output(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], channels_last: bool
) -> Tensor:
    """Memory for y, (B, C_out, H', W')."""
    size = [
        (x.shape[2 + d] + 2 * padding[d] - weight.shape[2 + d]) // stride[d] + 1 for d in (0, 1)
    ]
    shape = (x.shape[0], weight.shape[0], *size)
    return torch.empty(
        shape, dtype=x.dtype, device=x.device, memory_format=memory_format(channels_last)
    )


def run_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float,
    stride: list[int],
    padding: list[int],
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    y = empty_output(x, weight, stride, padding, channels_last)
    wide = [None if t is None else t.to(_compute(x)) for t in (x, weight, bias)]
    z = like_layout(F.conv2d(*wide, stride=stride, padding=padding), y)
    return like_layout(F.leaky_relu(z, slope).to(x.dtype), y), pack_signs(z)


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float,
    stride: list[int],
    padding: list[int],
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    y = empty_output(x, weight, stride, padding, channels_last)
    return y, torch.empty(bits_shape(y), dtype=torch.uint8, device=x.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, ctx.slope, ctx.stride, ctx.padding, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, output[1])


def _backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, weight, bits = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    # One pass of the bits serves all three gradients; those of x and weight are PyTorch's own.
    masked, summed = leaky_relu_backward(upstream, bits, ctx.slope, bias_grad=wanted[2])
    d_bias = summed.to(ctx.bias_dtype) if summed is not None else None
    d_x = d_weight = None
    if wanted[0] or wanted[1]:
        d_x, d_weight, _ = torch.ops.aten.convolution_backward(
            masked, x, weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1,
            [wanted[0], wanted[1], False],
        )  # fmt: skip
    return d_x, d_weight, d_bias, None, None, None, None


def run_input_grad_reference(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    slope: float,
    stride: list[int],
    padding: list[int],
    size: list[int],
) -> Tensor:
    masked, _ = run_backward_reference(grad, bits, slope, False)
    compute = _compute(grad)
    weight = weight.to(grad.dtype).to(compute)
    shape = (grad.shape[0], weight.shape[1], *size)
    found = torch.ops.aten.convolution_backward(
        masked.to(compute), torch.empty(shape, dtype=compute, device=grad.device), weight, None,
        stride, padding, [1, 1], False, [0, 0], 1, [True, False, False],
    )[0]  # fmt: skip
    return like_layout(found, torch.empty(shape, dtype=compute, device=grad.device))


def _fake_input_grad(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    slope: float,
    stride: list[int],
    padding: list[int],
    size: list[int],
) -> Tensor:
    as_bits(grad, bits)  # raises where they do not belong together
    shape = (grad.shape[0], weight.shape[1], *size)
    return torch.empty(shape, dtype=_compute(grad), device=grad.device)


def _setup_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, bits, weight, ctx.slope, ctx.stride, ctx.padding, _ = inputs
    ctx.save_for_backward(grad, bits, weight)


def _input_grad_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    """Linear in grad and in weight; the masking is its own transpose."""
    grad, bits, weight = ctx.saved_tensors
    d_grad = d_weight = None
    if ctx.needs_input_grad[0]:
        moved = F.conv2d(upstream.to(grad.dtype), weight.to(grad.dtype), None, ctx.stride,
                         ctx.padding)  # fmt: skip
        d_grad, _ = leaky_relu_backward(moved, bits, ctx.slope)
    if ctx.needs_input_grad[2]:
        masked, _ = leaky_relu_backward(grad, bits, ctx.slope)
        d_weight = torch.ops.aten.convolution_backward(
            masked, upstream.to(grad.dtype), weight.to(grad.dtype), None, ctx.stride, ctx.padding,
            [1, 1], False, [0, 0], 1, [False, True, False],
        )[1].to(weight.dtype)  # fmt: skip
    return d_grad, None, d_weight, None, None, None, None


_first_conv = register(
    "first_conv(Tensor x, Tensor weight, Tensor? bias, float slope, int[] stride, int[] padding,"
    " bool channels_last) -> (Tensor, Tensor)",
    reference=run_reference,
    triton="coophash.kernels.first_layer_triton:first_conv",
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
_first_conv_input_grad = register(
    "first_conv_input_grad(Tensor grad, Tensor bits, Tensor weight, float slope, int[] stride,"
    " int[] padding, SymInt[] size) -> Tensor",
    reference=run_input_grad_reference,
    triton="coophash.kernels.first_layer_langevin_triton:first_conv_input_grad",
    fake=_fake_input_grad,
    setup_context=_setup_input_grad,
    backward=_input_grad_backward,
)


def first_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    slope: float = 0.01,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    channels_last: bool | None = None,
) -> Tensor:
    """leaky_relu(conv2d(x, weight, bias, stride, padding), slope) for few input channels.

    Any image, weight and channels are right; one kernel runs it on CUDA for up to 4 input channels
    and 256 weights an output channel, in float32 (never TF32), bfloat16 and float16, and sums in
    float32. Elsewhere the convolution is PyTorch's. Differentiable any number of times; keeps x,
    weight and one bit an element of the result.

    Args:
        x: (B, C_in, H, W) floating point, any strides.
        weight: (C_out, C_in, KH, KW) of the dtype of x.
        bias: (C_out,) floating point, or None.
        slope: of the negative side, >= 0; 0 is ReLU.
        stride, padding: of rows and columns, as in F.conv2d.
        channels_last: memory format of the result; by default channels_last where x or weight is.

    Returns:
        (B, C_out, H', W') of the dtype of x, H' = (H + 2 · padding - KH) // stride + 1.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range.
    """
    arguments = _check(x, weight, bias, slope, stride, padding, channels_last)
    if runs_plain(x):
        return first_conv_reference(*arguments)
    return _first_conv(*arguments)[0]  # type: ignore[no-any-return]


def first_conv_bits(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    slope: float = 0.01,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    channels_last: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """`first_conv` that returns the packed signs too, for a hand-written backward pass.

    Args: as of `first_conv`.

    Returns:
        y as `first_conv`; bits, uint8, as `bias_leaky_relu_bits` lays them out.

    Raises: as `first_conv`.
    """
    arguments = _check(x, weight, bias, slope, stride, padding, channels_last)
    return _first_conv(*arguments)  # type: ignore[no-any-return]


def first_conv_input_grad(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    slope: float,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    size: tuple[int, int],
) -> Tensor:
    """The gradient with respect to the image of `first_conv`, and of nothing else.

    Args:
        grad: (B, C_out, H', W') floating point, the gradient with respect to y.
        bits: of `first_conv_bits`.
        weight: (C_out, C_in, KH, KW); rounded to the dtype of grad.
        slope, stride, padding: as in the forward pass.
        size: (H, W) of the image.

    Returns:
        (B, C_in, H, W) float32 (float64 for float64), row-major.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range.
    """
    arguments = check_input_grad(grad, bits, weight, slope, stride, padding, size)
    return _first_conv_input_grad(*arguments)  # type: ignore[no-any-return]


def check_input_grad(
    grad: Any, bits: Any, weight: Any, slope: Any, stride: Any, padding: Any, size: Any
) -> tuple[Any, ...]:
    """The arguments of the op, or raise."""
    check_activation("grad", grad)
    check_activation("weight", weight)
    if grad.dim() != 4 or weight.dim() != 4 or grad.shape[1] != weight.shape[0]:
        raise ValueError(
            f"grad must be (B, C_out, H', W') and weight (C_out, C_in, KH, KW), "
            f"got {tuple(grad.shape)} and {tuple(weight.shape)}"
        )
    _check_device("weight", weight, grad, "grad")
    check_bits(bits, grad)
    check_slope(slope)
    strides, paddings = _pair("stride", stride, 1), _pair("padding", padding, 0)
    size = _pair("size", size, 1)
    expected = tuple(
        (size[d] + 2 * paddings[d] - weight.shape[2 + d]) // strides[d] + 1 for d in (0, 1)
    )
    if tuple(grad.shape[2:]) != expected:
        raise ValueError(
            f"grad must be {expected[0]} x {expected[1]} for an image of {size[0]} x {size[1]}, a "
            f"kernel of {weight.shape[2]} x {weight.shape[3]}, stride {strides} and padding "
            f"{paddings}, got {tuple(grad.shape)}"
        )
    return grad, bits, weight, float(slope), strides, paddings, size


def _check(
    x: Any, weight: Any, bias: Any, slope: Any, stride: Any, padding: Any, channels_last: Any
) -> tuple[Any, ...]:
    check_activation("x", x)
    check_activation("weight", weight)
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C_in, H, W), got {tuple(x.shape)}")
    if weight.dim() != 4 or weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"weight must be (C_out, {x.shape[1]}, KH, KW) for x of {tuple(x.shape)}, "
            f"got {tuple(weight.shape)}"
        )
    if weight.dtype != x.dtype:
        raise TypeError(
            f"weight must have the dtype of x, {x.dtype}, got {weight.dtype}: "
            "call weight.to(x.dtype) first"
        )
    _check_device("weight", weight, x, "x")
    check_bias(bias, weight.shape[0], x.device)
    check_slope(slope)
    strides, paddings = _pair("stride", stride, 1), _pair("padding", padding, 0)
    for d, name in enumerate(("high", "wide")):
        if x.shape[2 + d] + 2 * paddings[d] < weight.shape[2 + d]:
            raise ValueError(
                f"x with its padding must be at least as {name} as the kernel, got "
                f"{x.shape[2 + d]} + 2 · {paddings[d]} for {weight.shape[2 + d]}"
            )
    if channels_last is None:
        channels_last = _is_last(x) or _is_last(weight)
    return x, weight, bias, float(slope), strides, paddings, bool(channels_last)


def _is_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _check_device(name: str, value: Tensor, model: Tensor, of: str) -> None:
    if value.device != model.device:
        raise ValueError(
            f"{name} must be on the device of {of}, {model.device}, got {value.device}: "
            f"call {name}.to({of}.device) first"
        )


def _pair(name: str, value: Any, least: int) -> list[int]:
    pair = [value, value] if isinstance(value, (int, torch.SymInt)) else value
    try:
        found = [v if isinstance(v, torch.SymInt) else v.__index__() for v in pair]
    except (TypeError, AttributeError):
        found = []
    if len(found) != 2 or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer or a pair of integers, got {value!r}")
    if min(found) < least:
        raise ValueError(f"{name} must be >= {least}, got {value!r}")
    return found
