"""The settings of a Langevin chain, resolved, and the loop over its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coophash import schedules
from coophash._chain_energy import BoundEnergy, StepArguments
from coophash.kernels._langevin_arguments import bounds, counter, positive

Scale = schedules.Schedule | Tensor | None


@dataclass(frozen=True)
class Plan:
    """What a chain does, without its energy and its x.

    Attributes:
        steps: number of steps.
        scales: (steps, 4) on the device of x: factors of gradient and noise in columns 0 and 1; or
            None where both are known on the host. Rows of 16 bytes: Triton compiles a kernel anew
            for a pointer of another alignment.
        grad_scales, noise_scales: the same on the host; 1 where `scales` holds them.
        rng: (3,) int64 on the device: added to seed, first step and chain; or None.
        seed, first_step, chain: on the host; 0 where `rng` holds them.
        low, high, grad_clip, inverse_variance: as in the op.
    """

    steps: int
    scales: Tensor | None
    grad_scales: list[float]
    noise_scales: list[float]
    rng: Tensor | None
    seed: int
    first_step: int
    chain: int
    low: float
    high: float
    grad_clip: float
    inverse_variance: float

    def step(self, i: int) -> StepArguments:
        return StepArguments(
            None if self.scales is None else self.scales[i],
            self.rng, self.grad_scales[i], self.noise_scales[i], self.low, self.high,
            self.grad_clip, self.inverse_variance, self.seed, self.first_step + i, self.chain,
        )  # fmt: skip

    @property
    def draws(self) -> bool:
        """Whether any step has noise."""
        return any(self.noise_scales)

    def scale_table(self) -> list[list[float]]:
        """Rows of `scales` of what is known on the host."""
        pairs = zip(self.grad_scales, self.noise_scales, strict=True)
        return [[a, b, 0.0, 0.0] for a, b in pairs]


def make_plan(
    x: Tensor,
    steps: int,
    step_size: schedules.Schedule,
    noise: schedules.Schedule,
    grad_scale: Scale,
    noise_scale: Scale,
    clamp: Any,
    grad_clip: float | None,
    reference_std: float | None,
    seed: int | Tensor,
    first_step: int | Tensor,
    chain: int | Tensor,
) -> Plan:
    """The plan of a chain from x.

    Raises:
        TypeError, ValueError: a setting is not as `langevin` describes it.
    """
    sizes = schedules.values("step_size", step_size, steps)
    temperatures = schedules.values("noise", noise, steps)
    if not callable(step_size) and not hasattr(step_size, "__len__") and step_size == 0.0:
        raise ValueError("step_size must be > 0, got 0")
    columns: list[list[float] | Tensor] = [
        [0.5 * size * size for size in sizes],
        [size * temperature for size, temperature in zip(sizes, temperatures, strict=True)],
    ]
    for i, (name, given) in enumerate((("grad_scale", grad_scale), ("noise_scale", noise_scale))):
        if isinstance(given, Tensor):
            columns[i] = _column(name, given, steps, x)
        elif given is not None:
            columns[i] = schedules.values(name, given, steps)
    a, b = ([1.0] * steps if isinstance(column, Tensor) else column for column in columns)
    scales = None
    if any(isinstance(column, Tensor) for column in columns):
        scales = x.new_ones((steps, 4), dtype=_compute_dtype(x))
        for i, column in enumerate(columns):
            if isinstance(column, Tensor):
                scales[:, i] = column
    low, high = bounds(clamp)
    std = positive("reference_std", reference_std, math.inf)
    numbers, rng = counter(x, seed, first_step, chain, step_name="first_step")
    seed_number, first, chain_number = numbers
    if not isinstance(first_step, Tensor) and first_step + steps > 2**32:
        raise ValueError(
            f"first_step + steps must be <= 2**32, got {first_step} + {steps}: take another seed"
        )
    clip = positive("grad_clip", grad_clip, math.inf)
    return Plan(
        steps, scales, a, b, rng, seed_number, first, chain_number, low, high, clip,
        1.0 / (std * std),
    )  # fmt: skip


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _column(name: str, values: Tensor, steps: int, x: Tensor) -> Tensor:
    if values.numel() not in (1, steps) or (values.dim() > 1 and values.numel() != 1):
        raise ValueError(
            f"{name} must be one number or one for each of the {steps} steps, got shape "
            f"{tuple(values.shape)}"
        )
    return values.detach().to(x.device, _compute_dtype(x)).reshape(-1)


def run_chain(
    energy: BoundEnergy,
    x: Tensor,
    plan: Plan,
    steps: int,
    last_energy: bool,
    look: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The first `steps` steps of a plan.

    Args:
        last_energy: whether to ask for the energies of the result.
        look: called with the number of steps made and the energies (B,) found before each step.

    Returns:
        The state after them, and the energies before each step; with `last_energy` those of the
        result too.
    """
    energies: list[Tensor] = []
    for i in range(steps):
        value, moved = energy.step(x, plan.step(i))
        if look is not None:
            look(i, value)
        energies.append(value)
        x = moved
    if last_energy:
        energies.append(energy(x).float())
    return x, energies


def finite(energies: Tensor, state: Tensor) -> Tensor:
    """Whether everything found after 0, 1 … steps is finite: energies (n, B) -> (n + 1,) bool."""
    return torch.cat([torch.isfinite(energies).all(1), torch.isfinite(state).all()[None]])
