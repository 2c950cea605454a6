"""The energy of a sample under its class, and what autograd needs of it, as ops:

    E_b = W[y_b] · a(f_b) + bias[y_b],     dE_b/df_b = W[y_b] ⊙ a'(f_b)

with a the identity or, with `slope`, a leaky ReLU that stands in front of the head. The (B, C)
outputs of the other classes are never computed. Each of the three gradients is an op again, all of
one trilinear form  Σ_b s_b W[y_b] · a(f_b),  so that each is differentiable by the other two:

    energies   E_b   of (features, weight, bias)
    dfeatures  D_b = s_b W[y_b] ⊙ a'(f_b)
    dweight    D_c = Σ_{b: y_b = c} s_b a(f_b), and Σ_{b: y_b = c} s_b for the bias

a'(0) is the slope, as in PyTorch; a'' is 0. The Triton kernels are in energy_class_triton.py,
the public functions in energy.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from coophash.kernels._library import register

_ARGUMENTS = "Tensor features, Tensor weight, Tensor? bias, Tensor labels, float? slope"


def compute_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """float32; float64 where one of the tensors is."""
    wide = a.dtype == torch.float64 or b.dtype == torch.float64
    return torch.float64 if wide else torch.float32


def widen(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor.to(dtype)`, without the microsecond that it takes to find nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def activate(features: Tensor, slope: float | None) -> Tensor:
    return features if slope is None else F.leaky_relu(features, slope)


def through_activation(grad: Tensor, features: Tensor | None, slope: float | None) -> Tensor:
    """The gradient in front of the activation from the one behind it; differentiable in `grad`."""
    if slope is None or features is None:
        return grad
    wide = torch.promote_types(grad.dtype, features.dtype)
    return torch.ops.aten.leaky_relu_backward(  # type: ignore[no-any-return]
        widen(grad, wide), widen(features, wide), slope, False
    )


def _rows(table: Tensor, labels: Tensor) -> Tensor:
    try:
        return table.index_select(0, labels)
    except IndexError:
        raise ValueError(
            f"labels must be classes from 0 to {len(table) - 1}, one for each row of weight, "
            f"got {int(labels.min())} to {int(labels.max())}"
        ) from None


def class_energy_reference(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, slope: float | None
) -> Tensor:
    """(B,) energies in plain, differentiable PyTorch: the truth of the tests and the CPU path."""
    compute = compute_dtype(features, weight)
    active = activate(widen(features, compute), slope)
    # Converted before the rows are taken: autograd then sums the gradients of a row in float32.
    energies = (active * _rows(widen(weight, compute), labels)).sum(1)
    return energies if bias is None else energies + _rows(widen(bias, compute), labels)


def class_energy_and_grad_reference(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, slope: float | None
) -> tuple[Tensor, Tensor]:
    """(B,) energies and (B, D) their gradient with respect to the features; differentiable."""
    compute = compute_dtype(features, weight)
    wide = widen(features, compute)
    grad = through_activation(_rows(widen(weight, compute), labels), wide, slope)
    energies = (wide * grad).sum(1)  # a(f) = f a'(f)
    if bias is not None:
        energies = energies + _rows(widen(bias, compute), labels)
    return energies, widen(grad, features.dtype).contiguous()


def run_dfeatures_reference(
    scale: Tensor,
    weight: Tensor,
    labels: Tensor,
    features: Tensor | None,
    slope: float | None,
    dtype: torch.dtype,
) -> Tensor:
    compute = compute_dtype(scale, weight)
    grad = scale.to(compute)[:, None] * _rows(weight, labels).to(compute)
    return through_activation(grad, features, slope).to(dtype).contiguous()


def run_dweight_reference(
    scale: Tensor,
    features: Tensor,
    labels: Tensor,
    classes: int,
    slope: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    compute = compute_dtype(scale, features)
    scale = scale.to(compute)
    terms = scale[:, None] * activate(features.to(compute), slope)
    by_class = terms.new_zeros(classes, terms.shape[1]).index_add_(0, labels, terms)
    return by_class.to(dtype), terms.new_zeros(classes).index_add_(0, labels, scale)


def _fake_energies(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, slope: float | None
) -> Tensor:
    return features.new_empty(features.shape[:1], dtype=compute_dtype(features, weight))


def _fake_both(features: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake_energies(features, *rest), features.new_empty(features.shape)


def _fake_dfeatures(
    scale: Tensor,
    weight: Tensor,
    labels: Tensor,
    features: Tensor | None,
    slope: float | None,
    dtype: torch.dtype,
) -> Tensor:
    return weight.new_empty((scale.shape[0], weight.shape[1]), dtype=dtype)


def _fake_dweight(
    scale: Tensor,
    features: Tensor,
    labels: Tensor,
    classes: int,
    slope: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    compute = compute_dtype(scale, features)
    return (
        features.new_empty((classes, features.shape[1]), dtype=dtype),
        features.new_empty((classes,), dtype=compute),
    )


def _setup_energies(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, bias, labels, ctx.slope = inputs
    # dE/df needs no features where there is no activation: a chain does not keep them.
    needed = ctx.slope is not None or any(ctx.needs_input_grad[1:3])
    ctx.save_for_backward(features if needed else None, weight, labels)
    ctx.dtype, ctx.bias_dtype = features.dtype, None if bias is None else bias.dtype


def _backward_energies(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, labels = ctx.saved_tensors
    d_features = d_weight = d_bias = None
    if ctx.needs_input_grad[0]:
        kept = None if ctx.slope is None else features
        d_features = dfeatures(upstream, weight, labels, kept, ctx.slope, ctx.dtype)
    if any(ctx.needs_input_grad[1:3]):
        d_weight, sums = dweight(upstream, features, labels, len(weight), ctx.slope, weight.dtype)
        d_bias = sums.to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
    return d_features, d_weight, d_bias, None, None


def _setup_dfeatures(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scale, weight, labels, features, ctx.slope, _ = inputs
    ctx.save_for_backward(scale, weight, labels, features)


def _backward_dfeatures(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    scale, weight, labels, features = ctx.saved_tensors
    upstream = through_activation(upstream, features, ctx.slope).to(upstream.dtype)
    d_scale = d_weight = None
    if ctx.needs_input_grad[0]:
        d_scale = class_energies(upstream, weight, None, labels, None).to(scale.dtype)
    if ctx.needs_input_grad[1]:
        d_weight, _ = dweight(scale, upstream, labels, len(weight), None, weight.dtype)
    return d_scale, d_weight, None, None, None, None


def _setup_dweight(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    scale, features, labels, _, ctx.slope, _ = inputs
    ctx.save_for_backward(scale, features, labels)


def _backward_dweight(ctx: Any, by_class: Tensor, sums: Tensor) -> tuple[Tensor | None, ...]:
    scale, features, labels = ctx.saved_tensors
    d_scale = d_features = None
    if ctx.needs_input_grad[0]:
        d_scale = class_energies(features, by_class, sums, labels, ctx.slope).to(scale.dtype)
    if ctx.needs_input_grad[1]:
        kept = None if ctx.slope is None else features
        d_features = dfeatures(scale, by_class, labels, kept, ctx.slope, features.dtype)
    return d_scale, d_features, None, None, None, None


_TRITON = "coophash.kernels.energy_class_triton"

class_energies = register(
    f"energy_head_class({_ARGUMENTS}) -> Tensor",
    reference=class_energy_reference,
    triton=f"{_TRITON}:energies",
    fake=_fake_energies,
    setup_context=_setup_energies,
    backward=_backward_energies,
)
class_energies_and_grad = register(
    f"energy_head_class_both({_ARGUMENTS}) -> (Tensor, Tensor)",
    reference=class_energy_and_grad_reference,
    triton=f"{_TRITON}:energies_and_grad",
    fake=_fake_both,
)
dfeatures = register(
    "energy_head_class_dfeatures(Tensor scale, Tensor weight, Tensor labels, Tensor? features, "
    "float? slope, ScalarType dtype) -> Tensor",
    reference=run_dfeatures_reference,
    triton=f"{_TRITON}:dfeatures",
    fake=_fake_dfeatures,
    setup_context=_setup_dfeatures,
    backward=_backward_dfeatures,
)
dweight = register(
    "energy_head_class_dweight(Tensor scale, Tensor features, Tensor labels, SymInt classes, "
    "float? slope, ScalarType dtype) -> (Tensor, Tensor)",
    reference=run_dweight_reference,
    triton=f"{_TRITON}:dweight",
    fake=_fake_dweight,
    setup_context=_setup_dweight,
    backward=_backward_dweight,
)
