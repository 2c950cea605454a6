"""The end of a Langevin step on a convolutional energy: the first layer's backward pass, fused.

    x' = clamp(x - a · (∂E/∂x + x / σ²) + b · ε),   ∂E/∂x = convᵀ(leaky'(z) · ∂E/∂y, weight)

with y = leaky(z), z = conv(x, weight) + bias the first layer (`first_layer.py`) and ∂E/∂y what the
other layers' backward passes give. Apart, the gradient through the activation, the one with respect
to the image and the step each read and write memory; here ∂E/∂y is read, with one bit an element,
and x becomes x'. The numbers are those of `langevin_step` on the gradient that
`first_conv_input_grad` gives, same options and same noise.

The kernel is in first_layer_langevin_triton.py; bytes and instructions in kernels/README.md.
Check it, time it: pytest tests/kernels/test_first_layer_langevin.py && pytest
benchmarks/bench_first_layer.py
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from coophash.kernels import langevin
from coophash.kernels._langevin_arguments import (
    Integer,
    bounds,
    check_tensor,
    counter,
    positive,
    scale_pair,
)
from coophash.kernels._library import register
from coophash.kernels.first_layer import (
    Pair,
    check_input_grad,
    first_conv_input_grad,
    run_input_grad_reference,
)


def run_reference_out(
    x: Tensor,
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    noise: Tensor | None,
    out: Tensor,
    input_grad: Tensor | None,
    slope: float,
    stride: list[int],
    padding: list[int],
    *options: Any,
) -> None:
    """The gradient in PyTorch, then the reference of the step."""
    found = run_input_grad_reference(grad, bits, weight, slope, stride, padding, list(x.shape[2:]))
    if input_grad is not None:
        input_grad.copy_(found)
    langevin.run_reference_out(x, found, noise, out, *options)


def _run_reference(
    x: Tensor, grad: Tensor, bits: Tensor, weight: Tensor, noise: Tensor | None, *rest: Any
) -> Tensor:
    out = torch.empty_like(x)
    run_reference_out(x, grad, bits, weight, noise, out, None, *rest)
    return out


def _fake(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_out(x: Tensor, *rest: Any) -> None:
    return None


_LAYER = "float slope, int[] stride, int[] padding"
_first_conv_langevin = register(
    "first_conv_langevin(Tensor x, Tensor grad, Tensor bits, Tensor weight, Tensor? noise,"
    f" {_LAYER}, {langevin.OPTIONS}) -> Tensor",
    reference=_run_reference,
    triton="coophash.kernels.first_layer_langevin_triton:first_conv_langevin",
    fake=_fake,
)
_first_conv_langevin_out = register(
    "first_conv_langevin_out(Tensor x, Tensor grad, Tensor bits, Tensor weight, Tensor? noise,"
    f" Tensor(a!) out, Tensor(b!)? input_grad, {_LAYER}, {langevin.OPTIONS}) -> ()",
    reference=run_reference_out,
    triton="coophash.kernels.first_layer_langevin_triton:first_conv_langevin_out",
    fake=_fake_out,
)


def first_conv_langevin(
    x: Tensor,
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    slope: float,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    grad_scale: float | Tensor,
    noise_scale: float | Tensor = 0.0,
    noise: Tensor | None = None,
    seed: Integer = 0,
    step: Integer = 0,
    chain: Integer = 0,
    clamp: tuple[float, float] | None = None,
    grad_clip: float | None = None,
    reference_std: float | None = None,
    out: Tensor | None = None,
    input_grad: Tensor | None = None,
) -> Tensor:
    """A Langevin step from the gradient at the output of the first layer.

    Equal to langevin_step(x, first_conv_input_grad(grad, bits, weight, …), …) up to rounding; on
    CUDA the input gradient stays in registers unless asked for. Not differentiable. For sums over
    samples take the two steps apart, langevin_step(…, statistics=True) being the second.

    Args:
        x: (B, C_in, H, W) floating point, any strides.
        grad: (B, C_out, H', W') floating point, the energy's gradient with respect to the output
            of the first layer, after its activation. Best in the memory format of that output.
        bits: of `first_conv_bits` on x.
        weight: (C_out, C_in, KH, KW); rounded to the dtype of grad.
        slope, stride, padding: of the layer.
        grad_scale, noise_scale, noise, seed, step, chain, clamp, grad_clip, reference_std: as of
            `langevin_step`; the noise is the same too.
        out: (B, C_in, H, W) of the dtype of x, where to write; x itself makes the step in place.
        input_grad: (B, C_in, H, W) floating point, where to write the energy's gradient with
            respect to x, or None. Memory of its own.

    Returns:
        (B, C_in, H, W) of the dtype of x; `out` where given.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range.
    """
    check_tensor("x", x)
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C_in, H, W), got {tuple(x.shape)}")
    for name, other in (("noise", noise), ("out", out), ("input_grad", input_grad)):
        if other is not None:
            check_tensor(name, other, like=x)
    size = (x.shape[2], x.shape[3])
    *_, weight, _, strides, paddings, _ = check_input_grad(
        grad, bits, weight, slope, stride, padding, size
    )
    if (grad.shape[0], weight.shape[1]) != tuple(x.shape[:2]) or grad.device != x.device:
        raise ValueError(
            f"grad and weight must be of {x.shape[0]} samples and {x.shape[1]} input channels on "
            f"{x.device} like x, got {grad.shape[0]} and {weight.shape[1]} on {grad.device}"
        )
    low, high = bounds(clamp)
    clip = positive("grad_clip", grad_clip, math.inf)
    std = positive("reference_std", reference_std, math.inf)
    a, b, scales = scale_pair(x, grad_scale, noise_scale)
    integers, rng = counter(x, seed, step, chain)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, grad, weight, noise, scales)
    ):
        raise ValueError(
            "first_conv_langevin is not differentiable, but an argument requires a gradient: call "
            "it under torch.no_grad()"
        )
    layer = (float(slope), strides, paddings)
    options = (scales, rng, a, b, low, high, clip, 1.0 / (std * std), *integers)
    if out is None and input_grad is None:
        return _first_conv_langevin(  # type: ignore[no-any-return]
            x, grad, bits, weight, noise, *layer, *options
        )
    if out is None:
        out = torch.empty_like(x)
    if out.dtype != x.dtype:
        raise TypeError(f"out must have the dtype of x, {x.dtype}, got {out.dtype}")
    for name, written in (("out", out), ("input_grad", input_grad)):
        if written is not None and any(
            n > 1 and s == 0 for n, s in zip(written.shape, written.stride(), strict=True)
        ):
            raise ValueError(f"{name} must own each of its elements, got an expanded tensor")
    _first_conv_langevin_out(x, grad, bits, weight, noise, out, input_grad, *layer, *options)
    return out


__all__ = ["first_conv_input_grad", "first_conv_langevin"]
