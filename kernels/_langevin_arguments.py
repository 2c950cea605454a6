"""The arguments of a Langevin step, checked and brought into the form that its ops take."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

Integer: TypeAlias = int | Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_tensor(name: str, value: Any, like: Tensor | None = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be float32, bfloat16, float16 or float64, got {value.dtype}: "
            f"call {name}.float() first"
        )
    if like is None:
        return
    if value.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of x, {tuple(like.shape)}, got {tuple(value.shape)}"
        )
    if value.device != like.device:
        raise ValueError(
            f"{name} must be on the device of x, {like.device}, got {value.device}: "
            f"call {name}.to(x.device) first"
        )


def bounds(clamp: Any) -> tuple[float, float]:
    if clamp is None:
        return -math.inf, math.inf
    try:
        low, high = (float(bound) for bound in clamp)
    except (TypeError, ValueError):
        raise ValueError(f"clamp must be (low, high) or None, got {clamp!r}") from None
    if not low <= high:
        raise ValueError(f"clamp must be (low, high) with low <= high, got {clamp!r}")
    return low, high


def positive(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not value > 0:
        raise ValueError(f"{name} must be > 0 or None, got {value!r}")
    return float(value)


def scale_pair(
    x: Tensor, grad_scale: float | Tensor, noise_scale: float | Tensor
) -> tuple[float, float, Tensor | None]:
    """Both coefficients as numbers and, where one is a tensor, a tensor to multiply them with."""
    numbers: list[float] = []
    for name, value in (("grad_scale", grad_scale), ("noise_scale", noise_scale)):
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"{name} must be one number, got shape {tuple(value.shape)}")
            numbers.append(1.0)
            continue
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        numbers.append(float(value))
    a, b = numbers
    if not isinstance(grad_scale, Tensor) and not isinstance(noise_scale, Tensor):
        return a, b, None
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    one = torch.ones((), dtype=dtype, device=x.device)
    pair = [
        value.to(x.device, dtype).reshape(()) if isinstance(value, Tensor) else one
        for value in (grad_scale, noise_scale)
    ]
    return a, b, torch.stack(pair)


def counter(
    x: Tensor, seed: Integer, step: Integer, chain: Integer, step_name: str = "step"
) -> tuple[tuple[int, int, int], Tensor | None]:
    """Seed, step and chain as integers and, where one is a tensor, a tensor to add to them."""
    values: list[Integer] = []
    for name, value, bits in (("seed", seed, 64), (step_name, step, 32), ("chain", chain, 32)):
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.dtype.is_floating_point or value.dtype == torch.bool:
                raise ValueError(
                    f"{name} must be an integer or a tensor of one integer, "
                    f"got {value.dtype} {tuple(value.shape)}"
                )
            values.append(value.to(x.device, torch.int64).reshape(()))
            continue
        try:
            number = value if type(value) is int else value.__index__()
        except AttributeError:
            raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
        if not 0 <= number < 2**bits:
            raise ValueError(f"{name} must be in 0 … 2**{bits} - 1, got {number}")
        # The op takes signed 64-bit integers.
        values.append(number - 2**64 if number >= 2**63 else number)
    integers = tuple(0 if isinstance(value, Tensor) else value for value in values)
    if not any(isinstance(value, Tensor) for value in values):
        return integers, None  # type: ignore[return-value]
    zero = torch.zeros((), dtype=torch.int64, device=x.device)
    rng = torch.stack([value if isinstance(value, Tensor) else zero for value in values])
    return integers, rng  # type: ignore[return-value]
