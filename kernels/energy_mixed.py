"""The energy of a sample under several classes, and its gradient, from the outputs of every class
E_bc = W_c · a(f_b) + bias_c:

    no labels             E_b = -T log Σ_c exp(-E_bc / T)     p_b = softmax(-E_b· / T)
    labels (B, C) >= 0    E_b = Σ_c p_bc E_bc                 p_bc = labels_bc / Σ_c labels_bc

and in both dE_b/df_b = (Σ_c p_bc W_c) ⊙ a'(f_b). The first is the marginal energy of x where
p(x, c) ~ exp(-E(x, c) / T); the second the mean over the sample's labels, so that one label gives
the energy of its class whatever C is, and more labels do not make a larger energy.

Energies alone are a product of matrices and a row sum, left to PyTorch, which differentiates them
to any order. The op here is energies and gradient in one read of the features, for a chain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from coophash.kernels._library import register
from coophash.kernels.energy_class import (
    activate,
    compute_dtype,
    through_activation,
    widen,
)


def shares(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C) labels as weights that sum to 1; NaN in a row without any label."""
    labels = labels.to(dtype)
    return labels / labels.sum(1, keepdim=True)


def mixed_energy_reference(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    slope: float | None,
    temperature: float,
) -> Tensor:
    """(B,) energies in plain, differentiable PyTorch."""
    outputs, _ = _outputs(features, weight, bias, slope)
    return _mix(outputs, labels, temperature)


def mixed_energy_and_grad_reference(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    slope: float | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """(B,) energies and (B, D) their gradient with respect to the features; differentiable."""
    outputs, wide = _outputs(features, weight, bias, slope)
    if labels is None:
        p = torch.softmax(outputs / -temperature, 1)
    else:
        p = shares(labels, outputs.dtype)
    grad = through_activation(p @ weight.to(p.dtype), wide, slope)
    return _mix(outputs, labels, temperature), grad.to(features.dtype).contiguous()


def _outputs(
    features: Tensor, weight: Tensor, bias: Tensor | None, slope: float | None
) -> tuple[Tensor, Tensor]:
    """The head's (B, C) outputs, and the features in the dtype of the computation."""
    compute = compute_dtype(features, weight)
    wide = widen(features, compute)
    active = activate(wide, slope)
    outputs = F.linear(
        active, widen(weight, compute), None if bias is None else widen(bias, compute)
    )
    return outputs, wide


def _mix(outputs: Tensor, labels: Tensor | None, temperature: float) -> Tensor:
    if labels is None:
        return -temperature * torch.logsumexp(outputs / -temperature, 1)
    return (shares(labels, outputs.dtype) * outputs).sum(1)


def _fake(features: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(features, weight)
    return features.new_empty(features.shape[:1], dtype=dtype), features.new_empty(features.shape)


mixed_energies_and_grad = register(
    "energy_head_mixed(Tensor features, Tensor weight, Tensor? bias, Tensor? labels, "
    "float? slope, float temperature) -> (Tensor, Tensor)",
    reference=mixed_energy_and_grad_reference,
    triton="coophash.kernels.energy_mixed_triton:energies_and_grad",
    fake=_fake,
)
