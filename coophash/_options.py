"""The options that the metrics share, and what is checked of them."""

from __future__ import annotations

import numbers
from typing import Any, Literal, get_args

import numpy as np

from coophash.ties import Divisor

Ties = Literal["average", "stable", "best", "worst"]
Empty = Literal["zero", "skip"]
Mean = Literal["macro", "micro"]
Gain = Literal["exponential", "linear"]
Graded = Literal["graded", "binary"]
Cost = Literal["none", "buckets"]

__all__ = ["Cost", "Divisor", "Empty", "Gain", "Graded", "Mean", "Ties"]


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ValueError unless `value` is one of a Literal's."""
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")


def check_integer(name: str, value: object, least: int) -> int:
    """`value` as int; TypeError for another type, ValueError if it is below `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer >= {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def check_number(name: str, value: object, expected: str) -> None:
    """Raise TypeError unless `value` is a real number, not a bool; `expected` says which ones."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number {expected}, got {value!r}")


def check_k(k: int | None, items: int) -> int | None:
    """k, at most the number of items; None for all."""
    return None if k is None else min(check_integer("k", k, 1), items)


def need_k(k: int | None, items: int, what: str) -> int:
    """The same where a rank must be said."""
    if k is None:
        raise TypeError(f"k must be an integer >= 1, got None: the {what} of what rank?")
    return min(check_integer("k", k, 1), items)
