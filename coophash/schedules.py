"""Step sizes and temperatures that change along a Langevin chain.

A schedule is a list of numbers, one for each step: print it, plot it, cut it where a chain is
resumed. `langevin` takes one wherever it takes a number; it also takes any sequence of your own, or
a function of the step, counted from 0:

    langevin(energy, x, steps=60, step_size=schedules.cosine(0.2, 0.02, 60))
    langevin(energy, x, steps=60, noise=lambda i: 0.98**i)

Papers often schedule epsilon = step_size², the factor on the gradient: see `from_epsilon`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeAlias

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "from_epsilon",
    "geometric",
    "linear",
    "polynomial",
    "values",
]

Schedule: TypeAlias = float | Sequence[float] | Callable[[int], float]


def constant(value: float, steps: int) -> list[float]:
    """The same value at each of the steps: Eq. 6 of CoopHash."""
    return [_number("value", value)] * _steps(steps)


def linear(first: float, last: float, steps: int) -> list[float]:
    """From first to last in equal differences."""
    return [first + (last - first) * t for t in _times(first, last, steps)]


def geometric(first: float, last: float, steps: int) -> list[float]:
    """From first to last in equal ratios, as the noise levels of Song & Ermon (2019, NCSN).

    Raises:
        ValueError: one of the ends is 0.
    """
    times = _times(first, last, steps)
    if not first or not last:
        raise ValueError(f"first and last must be > 0, got {first!r} and {last!r}: use linear")
    return [first * (last / first) ** t for t in times]


def polynomial(first: float, steps: int, power: float = 0.55, offset: float = 1.0) -> list[float]:
    """first · (1 + i / offset)^-power, the decay of SGLD (Welling & Teh 2011).

    They write it of epsilon = step_size², as a (b + i)^-gamma with gamma in (0.5, 1]: the sum of
    the steps diverges and that of their squares does not, so the chain goes anywhere and settles.
    On step_size itself that is half their gamma.

    Args:
        first: value at step 0.
        power: > 0, of the decay.
        offset: > 0, number of steps before the decay sets in.
    """
    _number("first", first)
    for name, value in (("power", power), ("offset", offset)):
        if _number(name, value) == 0.0:
            raise ValueError(f"{name} must be > 0, got {value!r}")
    return [first * (1.0 + i / offset) ** -power for i in range(_steps(steps))]


def cosine(first: float, last: float, steps: int, cycles: int = 1) -> list[float]:
    """From first to last along half a cosine, again in each cycle.

    With more than one cycle it is the schedule of cyclical SG-MCMC (Zhang et al. 2020): each cycle
    begins with large steps that leave the mode, and ends with small ones that sample it.

    Args:
        first, last: values at the first and at the last step of a cycle.
        cycles: into how many parts the steps are divided, as equal as possible.
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int) or not 1 <= cycles <= max(steps, 1):
        raise ValueError(f"cycles must be an integer from 1 to steps, got {cycles!r}")
    lengths = [steps * (c + 1) // cycles - steps * c // cycles for c in range(cycles)]
    return [
        last + (first - last) * (0.5 + 0.5 * math.cos(math.pi * t))
        for length in lengths
        for t in _times(first, last, length)
    ]


def from_epsilon(epsilon: Schedule, steps: int) -> list[float]:
    """Step sizes whose squares are epsilon: x <- x - epsilon/2 · grad + sqrt(epsilon) · noise."""
    return [math.sqrt(value) for value in values("epsilon", epsilon, steps)]


def values(name: str, schedule: Any, steps: int) -> list[float]:
    """The number for each step of a schedule given as a number, a sequence or a function.

    Raises:
        TypeError, ValueError: not `steps` finite numbers >= 0; the message names `name`.
    """
    if isinstance(schedule, Real):
        return [_number(name, schedule)] * steps
    if isinstance(schedule, str):
        raise TypeError(f"{name} must be a number, or a sequence or function of them, got str")
    if callable(schedule):
        return [_number(f"{name}({i})", _item(schedule(i))) for i in range(steps)]
    try:
        items = list(schedule)
    except TypeError:
        raise TypeError(
            f"{name} must be a number, or a sequence or function of them, "
            f"got {type(schedule).__name__}"
        ) from None
    if len(items) != steps:
        raise ValueError(
            f"{name} must have one number for each of the {steps} steps, got {len(items)}"
        )
    return [_number(f"{name}[{i}]", _item(value)) for i, value in enumerate(items)]


def _item(value: Any) -> Any:
    """A NumPy or torch scalar as the number in it."""
    return value.item() if hasattr(value, "item") else value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return number


def _steps(steps: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be an integer >= 0, got {steps!r}")
    return steps


def _times(first: float, last: float, steps: int) -> list[float]:
    """0 … 1, one for each step; 0 alone for one step."""
    _number("first", first), _number("last", last)
    return [i / max(steps - 1, 1) for i in range(_steps(steps))]
