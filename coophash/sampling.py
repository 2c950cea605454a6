"""The Langevin chain: samples of any energy, CoopHash Eq. 6.

Every step needs the energy's gradient with respect to x alone, so no weight gradient is computed
and no graph outlives its step.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Literal, TypeAlias, overload

import torch
from torch import Tensor

from coophash.kernels.langevin import langevin_step

Energy: TypeAlias = Callable[..., Tensor]


@overload
def langevin(
    energy: Energy, x: Tensor, labels: Tensor | None = ..., steps: int = ...,
    step_size: float = ..., noise: float = ..., clamp: tuple[float, float] | None = ...,
    seed: int | Tensor = ..., *, grad_scale: float | Tensor | None = ...,
    noise_scale: float | Tensor | None = ..., first_step: int | Tensor = ...,
    chain: int | Tensor = ..., return_energies: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def langevin(
    energy: Energy, x: Tensor, labels: Tensor | None = ..., steps: int = ...,
    step_size: float = ..., noise: float = ..., clamp: tuple[float, float] | None = ...,
    seed: int | Tensor = ..., *, grad_scale: float | Tensor | None = ...,
    noise_scale: float | Tensor | None = ..., first_step: int | Tensor = ...,
    chain: int | Tensor = ..., return_energies: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def langevin(
    energy: Energy, x: Tensor, labels: Tensor | None = ..., steps: int = ...,
    step_size: float = ..., noise: float = ..., clamp: tuple[float, float] | None = ...,
    seed: int | Tensor = ..., *, grad_scale: float | Tensor | None = ...,
    noise_scale: float | Tensor | None = ..., first_step: int | Tensor = ...,
    chain: int | Tensor = ..., return_energies: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...  # fmt: skip


def langevin(
    energy: Energy,
    x: Tensor,
    labels: Tensor | None = None,
    steps: int = 60,
    step_size: float = 0.1,
    noise: float = 1.0,
    clamp: tuple[float, float] | None = None,
    seed: int | Tensor = 0,
    *,
    grad_scale: float | Tensor | None = None,
    noise_scale: float | Tensor | None = None,
    first_step: int | Tensor = 0,
    chain: int | Tensor = 0,
    return_energies: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run a Langevin chain on an energy, from x.

    Each of the steps is CoopHash Eq. 6,
    x <- clamp(x - step_size²/2 · dE/dx + step_size · noise · N(0, I)).

    Args:
        energy: called as energy(x, labels), or energy(x) if labels is None and it takes one
            argument; returns (B,) energies, lower is likelier, where sample i depends on x[i]
            alone. Any callable: a function, a module in train or eval mode.
        x: (B, …) float32, bfloat16, float16 or float64: where the chains start. Not changed.
        labels: (B, …) conditions handed to the energy as they are, or None.
        steps: number of steps, >= 0.
        step_size: δ > 0.
        noise: factor >= 0 on the noise. With 1 the samples follow exp(-energy) as δ goes to 0; with
            0 the chain descends.
        clamp: (low, high) bounds of x after each step, e.g. (-1, 1) for images; or None.
        seed: 64-bit integer, or a tensor of one integer. The same seed gives the same chain on
            every device, up to rounding.
        grad_scale: coefficient of the gradient instead of step_size²/2. Number or tensor.
        noise_scale: coefficient of N(0, I) instead of step_size · noise. Number or tensor.
        first_step: number of the first step in the random stream. A chain of m + n steps equals one
            of m steps and then, from its result, one of n steps with first_step=m.
        chain: 32-bit number of an independent stream under the same seed.
        return_energies: whether to return the energies along the way as well.

    Returns:
        (B, …) samples, detached; with return_energies also (steps + 1, B) float32, the energies
        before each step and after the last.

    Raises:
        TypeError, ValueError: an argument, or what the energy returned, is not as described.
        FloatingPointError: the chain diverged; the message names the step.
    """
    _check(x, labels, steps)
    size, temperature = _number("step_size", step_size), _number("noise", noise)
    if size == 0.0:
        raise ValueError("step_size must be > 0, got 0")
    a = 0.5 * size * size if grad_scale is None else grad_scale
    b = size * temperature if noise_scale is None else noise_scale
    call = _bind(energy, labels)
    energies: list[Tensor] = []
    look = x.device.type == "cpu"  # elsewhere each look at a value waits for the device
    # A caller may be in inference mode, whose tensors autograd refuses.
    with torch.inference_mode(False), torch.no_grad():
        state = x.clone() if x.is_inference() or steps == 0 else x.detach()
        for i in range(steps):
            value, grad = _energy_and_grad(call, state)
            if look:
                _check_finite([value], i, steps, a)
            energies.append(value)
            state = langevin_step(
                state,
                grad,
                grad_scale=a,
                noise_scale=b,
                seed=seed,
                step=first_step + i,
                chain=chain,
                clamp=clamp,
            )
        if return_energies:
            energies.append(call(state).float())
        if look:
            _check_finite([state], steps, steps, a)
        else:
            _check_finite([*energies[:steps], state], 0, steps, a)
        return (state, torch.stack(energies)) if return_energies else state


def _check(x: Tensor, labels: Tensor | None, steps: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}: call x.float() first")
    if x.dim() == 0:
        raise ValueError("x must have a batch dimension, (B, ...), got a single number")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be an integer >= 0, got {steps!r}")
    if isinstance(labels, Tensor) and (labels.dim() == 0 or len(labels) != len(x)):
        raise ValueError(
            f"labels must have one row for each of the {len(x)} samples of x, "
            f"got {tuple(labels.shape)}"
        )


def _number(name: str, value: float) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return float(value)


def _bind(energy: Energy, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
    """`energy` as a function of x alone."""
    if not callable(energy):
        raise TypeError(
            f"energy must be callable as energy(x, labels), got {type(energy).__name__}"
        )
    if labels is not None:
        if isinstance(labels, Tensor) and labels.is_inference():
            with torch.inference_mode(False):
                labels = labels.clone()
        return lambda x: energy(x, labels)
    target = energy.forward if isinstance(energy, torch.nn.Module) else energy
    try:
        inspect.signature(target).bind(None)
    except TypeError:
        return lambda x: energy(x, None)
    except ValueError:  # a builtin without a signature
        pass
    return lambda x: energy(x)


def _energy_and_grad(call: Callable[[Tensor], Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) float32 and their gradient with respect to the state, of the state's shape."""
    with torch.enable_grad():
        leaf = state.detach().requires_grad_()
        value = call(leaf)
        if not isinstance(value, Tensor):
            raise TypeError(f"energy must return a torch.Tensor, got {type(value).__name__}")
        if value.shape != state.shape[:1]:
            raise ValueError(
                f"energy must return one number for each sample, ({len(state)},), got "
                f"{tuple(value.shape)}: sum or squeeze the other dimensions"
            )
        if not value.requires_grad:
            raise ValueError("energy must be differentiable in x, got a result without a gradient")
        (grad,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if grad is None:
        raise ValueError("energy must depend on x, got a result that does not")
    return value.detach().float(), grad


def _check_finite(values: list[Tensor], first: int, steps: int, grad_scale: float | Tensor) -> None:
    """Raise if one of the values, those after step first, first + 1 …, is not finite."""
    if values[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return  # a capture cannot look at values
    finite = torch.stack([torch.isfinite(value).all() for value in values]).tolist()
    if all(finite):
        return
    step = first + finite.index(False)
    if step == 0:
        raise FloatingPointError(
            "the energy of x is not finite before the first step: look for NaN or infinity in x, "
            "in labels and in the weights of the energy"
        )
    raise FloatingPointError(
        f"the chain diverged: not finite after step {step} of {steps}, with the gradient scaled by "
        f"{float(grad_scale):.3g}: lower step_size (or grad_scale), or give clamp=(-1, 1)"
    )
