"""What a Langevin chain asks of an energy, whatever the energy offers.

An energy is a callable on (x, labels) or on x alone, differentiated by autograd. An energy object
may offer more, and is then not called:

    energy_and_grad(x, labels) -> energies (B,), their gradient in the shape of x
    energy_and_update(x, labels, step) -> energies (B,), x'

`step` are the last arguments of the op `coophash::langevin_step`, so the second one can fuse the
update of x into the last kernel of its gradient; where it returns NotImplemented, as for a device
that it has no kernel for, the first one is asked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

import coophash.kernels.langevin  # noqa: F401  defines coophash::langevin_step

Energy: TypeAlias = Callable[..., Tensor]


class StepArguments(NamedTuple):
    """Arguments of the op `coophash::langevin_step` after x, grad, noise: kernels/langevin.py."""

    scales: Tensor | None  # multiplies grad_scale and noise_scale, on the device
    rng: Tensor | None  # added to seed, step and chain, on the device
    grad_scale: float
    noise_scale: float
    low: float
    high: float
    grad_clip: float
    inverse_variance: float
    seed: int
    step: int
    chain: int


class BoundEnergy:
    """An energy with its labels: what a step needs, checked.

    Raises:
        TypeError: the energy is not callable.
    """

    def __init__(self, energy: Energy, labels: Any) -> None:
        if not callable(energy):
            raise TypeError(
                f"energy must be callable as energy(x, labels), got {type(energy).__name__}"
            )
        self.energy, self.labels = energy, labels
        self._alone = labels is None and _takes_x_alone(energy)
        self._and_grad = getattr(energy, "energy_and_grad", None)
        self._and_update = getattr(energy, "energy_and_update", None)

    def __call__(self, x: Tensor) -> Tensor:
        """Energies (B,)."""
        value = self.energy(x) if self._alone else self.energy(x, self.labels)
        _check_energies(value, x)
        return value

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and their gradient with respect to x, without a graph."""
        if self._and_grad is not None:
            value, grad = self._and_grad(x, self.labels)
            _check_energies(value, x)
            if not isinstance(grad, Tensor) or grad.shape != x.shape:
                got = tuple(grad.shape) if isinstance(grad, Tensor) else type(grad).__name__
                raise ValueError(
                    f"energy_and_grad must return a gradient of the shape of x, {tuple(x.shape)}, "
                    f"got {got}"
                )
            return value.detach(), grad.detach()
        return by_autograd(self, x)

    def step(self, x: Tensor, arguments: StepArguments) -> tuple[Tensor, Tensor]:
        """Energies (B,) of x in float32, and x after one step."""
        if self._and_update is not None:
            done = self._and_update(x, self.labels, arguments)
            if done is not NotImplemented:
                value, moved = done
                _check_energies(value, x)
                return value.detach().float(), moved.detach()
        value, grad = self.energy_and_grad(x)
        return value.float(), torch.ops.coophash.langevin_step(x, grad, None, *arguments)


def by_autograd(energy: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) of x and their gradient, of x alone: no weight gradient is computed."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = energy(leaf)
        if not value.requires_grad:
            raise ValueError("energy must be differentiable in x, got a result without a gradient")
        (grad,) = torch.autograd.grad(value, leaf, torch.ones_like(value), allow_unused=True)
    if grad is None:
        raise ValueError("energy must depend on x, got a result that does not")
    return value.detach(), grad


def _check_energies(value: Any, x: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"energy must return a torch.Tensor, got {type(value).__name__}")
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"energy must return one number for each sample, ({len(x)},), got "
            f"{tuple(value.shape)}: sum or squeeze the other dimensions"
        )


def _takes_x_alone(energy: Energy) -> bool:
    """Whether energy(x) is a call of its signature."""
    target = energy.forward if isinstance(energy, torch.nn.Module) else energy
    try:
        inspect.signature(target).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return False
    return True
