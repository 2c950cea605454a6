"""The energy head: one output per class on shared features (CoopHash Sec. 3.3), and its gradient.

    E_bc = W_c · a(f_b) + bias_c
    labels (B,)      E_b = E_b,y_b                       dE_b/df_b = W[y_b] ⊙ a'(f_b)
    labels (B, C)    E_b = Σ_c p_bc E_bc                 dE_b/df_b = (Σ_c p_bc W_c) ⊙ a'(f_b)
    no labels        E_b = -T log Σ_c exp(-E_bc / T)     the same, with p = softmax(-E / T)

a is the identity or, with `slope`, the leaky ReLU in front of the head. `energy_head` is for
training: differentiable, any order. `energy_head_and_grad` is for a chain: energies and gradient in
one read of the features. Both compute in float32 (float64 for float64), under autocast too.

The ops are in energy_class.py (class labels) and energy_mixed.py (the rest); bytes are
counted in kernels/README.md.
Check it, time it: pytest tests/kernels/test_energy.py && pytest benchmarks/bench_energy.py
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from coophash.kernels._backend import use_triton
from coophash.kernels._library import full_precision
from coophash.kernels.energy_class import (
    class_energies,
    class_energies_and_grad,
    class_energy_and_grad_reference,
    class_energy_reference,
    dfeatures,
)
from coophash.kernels.energy_mixed import (
    mixed_energies_and_grad,
    mixed_energy_and_grad_reference,
    mixed_energy_reference,
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def energy_head(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    slope: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Energies of samples under their classes, from the features that the heads share.

    With class labels the outputs of other classes are not computed, forward or backward.

    Args:
        features: (B, D) floating point, any strides; before the activation where `slope` is given.
        weight: (C, D), a row per class; its dtype may differ from that of features.
        bias: (C,) or None.
        labels: (B,) integer classes from 0 to C - 1; or (B, C) numbers >= 0 or booleans, where a
            sample has several labels: the energy is their mean, weighted by the numbers; or None
            for the marginal energy, a soft minimum over the classes.
        slope: >= 0, of a leaky ReLU applied to the features first; None for none. The activated
            features are then never stored.
        temperature: T > 0 of the marginal energy; only without labels.

    Returns:
        (B,) float32, float64 where features or weight are. Differentiable to any order with respect
        to features, weight and bias; the same bits each time.

    Raises:
        TypeError, ValueError: an argument is not as described. On a GPU a label out of range, and a
            row without any label, is not looked for, which would wait for the device: its energy
            and its gradient are NaN.
    """
    labels, slope = _check(features, weight, bias, labels, slope, temperature)
    if labels is None or labels.dim() == 2:
        with full_precision(features.device.type):
            return mixed_energy_reference(features, weight, bias, labels, slope, temperature)
    if _plainly(features):
        return class_energy_reference(features, weight, bias, labels, slope)
    return class_energies(features, weight, bias, labels, slope)  # type: ignore[no-any-return]


def energy_head_and_grad(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    slope: float | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Energies as `energy_head` gives them, and their gradient with respect to the features.

    Under torch.no_grad(), or where no argument requires a gradient, both come from one read of the
    features; else from differentiable ops.

    Args:
        features, weight, bias, labels, slope, temperature: as of `energy_head`.

    Returns:
        (B,) energies, and (B, D) dE_b/df_b in the dtype of features. With `slope` that is the
        gradient before the activation.

    Raises:
        TypeError, ValueError: as `energy_head`.
    """
    labels, slope = _check(features, weight, bias, labels, slope, temperature)
    differentiable = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (features, weight, bias, labels)
    )
    plainly = _plainly(features)
    if labels is None or labels.dim() == 2:
        both = mixed_energies_and_grad
        if plainly or differentiable:
            both = mixed_energy_and_grad_reference
        with full_precision(features.device.type):
            return both(  # type: ignore[no-any-return]
                features, weight, bias, labels, slope, temperature
            )
    if plainly:
        return class_energy_and_grad_reference(features, weight, bias, labels, slope)
    if differentiable:
        energies = class_energies(features, weight, bias, labels, slope)
        kept = None if slope is None else features
        ones = torch.ones_like(energies)
        return energies, dfeatures(ones, weight, labels, kept, slope, features.dtype)
    return class_energies_and_grad(  # type: ignore[no-any-return]
        features, weight, bias, labels, slope
    )


def _plainly(features: Tensor) -> bool:
    """Whether to run the reference as plain PyTorch, which saves an op's way through autograd.

    torch.compile and torch.export see the op on every device.
    """
    return not torch.compiler.is_compiling() and not use_triton(features.device.type)


def _check(
    features: Any, weight: Any, bias: Any, labels: Any, slope: Any, temperature: Any
) -> tuple[Tensor | None, float | None]:
    _check_tensor("features", features, "(B, D)", 2)
    _check_tensor("weight", weight, "(C, D)", 2)
    classes, width = weight.shape
    if features.shape[1] != width:
        raise ValueError(
            f"weight must be (C, {features.shape[1]}) for features {tuple(features.shape)}, got "
            f"{tuple(weight.shape)}"
        )
    if classes == 0:
        raise ValueError("weight must have a row for each class, got none")
    others = {"weight": weight}
    if bias is not None:
        _check_tensor("bias", bias, "(C,)", 1)
        if len(bias) != classes:
            raise ValueError(f"bias must be ({classes},) for weight, got {tuple(bias.shape)}")
        others["bias"] = bias
    if labels is not None:
        labels = _check_labels(labels, features.shape[0], classes)
        others["labels"] = labels
    for name, other in others.items():
        if other.device != features.device:
            raise ValueError(
                f"{name} must be on the device of features, {features.device}, got "
                f"{other.device}: call {name}.to(features.device) first"
            )
    if slope is not None:
        slope = _number("slope", slope)
    if _number("temperature", temperature) == 0.0:
        raise ValueError("temperature must be > 0, got 0")
    if labels is not None and temperature != 1.0:
        raise ValueError(
            f"temperature is of the marginal energy, got {temperature} together with labels: leave "
            "one of them"
        )
    return labels, slope


def _check_tensor(name: str, value: Any, shape: str, dimensions: int) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be float32, bfloat16, float16 or float64, got {value.dtype}: "
            f"call {name}.float() first"
        )
    if value.dim() != dimensions:
        raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")


def _check_labels(labels: Any, batch: int, classes: int) -> Tensor:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor or None, got {type(labels).__name__}")
    if labels.dtype.is_complex:
        raise TypeError(f"labels must be real, got {labels.dtype}")
    # `len` and comparing whole shapes would fix the batch size of an exported program.
    if labels.dim() == 1 and labels.shape[0] == batch:
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(
                f"labels must be integer classes (B,), got {labels.dtype}: call labels.long() first"
            )
        return labels.to(torch.int64)
    if labels.dim() != 2 or labels.shape[0] != batch or labels.shape[1] != classes:
        raise ValueError(
            f"labels must be ({batch},) integer classes or ({batch}, {classes}), a weight for each "
            f"class, got {tuple(labels.shape)}"
        )
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        low, total = (labels < 0).any(1), labels.sum(1)
        if (wrong := (low | ~(total > 0)).nonzero()).numel():
            raise ValueError(
                "labels must be numbers >= 0, at least one of them > 0 in each row, row "
                f"{int(wrong[0])} is not so: leave samples without a label out"
            )
    return labels


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return number
