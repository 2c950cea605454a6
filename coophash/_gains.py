"""Discounted cumulative gain from histograms, for every order of tied items at once.

DCG is a sum over ranks, so its expected value over the orders of ties needs only the mean gain of
each group and the sum of the discounts of its places (McSherry and Najork 2008).
"""

from __future__ import annotations

import math

import numpy as np

from coophash.ties import Counts, Floats, Order

# Sums of the first discounts 1 / log2(i + 1); beyond, an integral with two corrections.
_FIRST = 1 << 16
_SUMS = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2.0, _FIRST + 2.0)))])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


MOST_GRADES = 960  # 2^960 leaves room for 2^63 items below the largest float64


def ndcg(total: Counts, graded: Counts, k: int, order: Order, gains: Floats) -> Floats:
    """Normalised discounted cumulative gain at k of each query.

    Args:
        total: int64 (Q, distances), items at each distance.
        graded: int64 (Q, distances, G): items of grade 1 .. G among them.
        k: how many ranks count, 1 <= k.
        order: "average" for the expected value over all orders of ties, each equally likely;
            "best" and "worst" for the largest and smallest value that any order gives.
        gains: float64 (G,), gain of an item of grade 1 .. G, ascending; that of the others is 0.

    Returns:
        float64 (Q,); NaN where there is no relevant item at all.
    """
    if order == "average":
        shares = (graded @ gains) / np.maximum(total, 1)
        found = (shares * _discounts_of_groups(total, k)).sum(axis=1)
    else:
        nothing = total - graded.sum(axis=2)
        counts = np.concatenate([nothing[:, :, None], graded], axis=2)
        found = _ordered(counts[:, :, :: -1 if order == "best" else 1], k, gains, order)
    return normalised(found, graded.sum(axis=1), k, gains)


def normalised(found: Floats, grades: Counts, k: int, gains: Floats) -> Floats:
    """DCG over that of the best ranking of the database; NaN where that is 0.

    Args:
        found: float64 (Q,), DCG at k.
        grades: int64 (Q, G), items of grade 1 .. G in the database.
    """
    ideal = _discounts_of_groups(grades[:, ::-1], k) @ gains[::-1]
    out = np.full(len(found), np.nan)
    np.divide(found, ideal, out=out, where=ideal > 0)
    return np.asarray(np.minimum(out, 1.0))  # rounding may leave a perfect ranking a digit above it


def discounts(k: int) -> Floats:
    """1 / log2(rank + 1) of the ranks 1 .. k, float64 (k,)."""
    return np.asarray(1.0 / np.log2(np.arange(2.0, k + 2.0)))


def gains_of(grades: int, exponential: bool) -> Floats:
    """Gains of the grades 1 .. `grades`: 2^g - 1 or g.

    Raises:
        ValueError: more grades than exponential gains have a float64 for.
    """
    if exponential and grades > MOST_GRADES:
        raise ValueError(
            f"a query and an item share up to {grades:,} labels, and float64 has no room for sums "
            f"of gains of 2^{grades:,}, the most is 2^{MOST_GRADES}: give gain='linear'"
        )
    grade = np.arange(1.0, grades + 1.0)
    return np.exp2(grade) - 1.0 if exponential else grade


def _ordered(counts: Counts, k: int, gains: Floats, order: Order) -> Floats:
    """DCG where the items of a group stand by their grade, (Q, distances, G + 1) in that order."""
    queries, _, grades = counts.shape
    places = _discounts_of_groups(counts.reshape(queries, -1), k).reshape(counts.shape)
    all_gains = np.concatenate([[0.0], gains])
    sums = places.sum(axis=1)
    assert sums.shape == (queries, grades)
    return np.asarray(sums @ (all_gains[::-1] if order == "best" else all_gains))


def _discounts_of_groups(counts: Counts, k: int) -> Floats:
    """Sum of the discounts of the places of each group, those after k left out; (Q, groups)."""
    ends = np.minimum(np.cumsum(counts, axis=1), k)
    return np.diff(_sum_of_discounts(ends), axis=1, prepend=0.0)


def _sum_of_discounts(ranks: Counts) -> Floats:
    """sum_{i=1..m} 1 / log2(i + 1) for each m, without a table as long as the database."""
    sums = _SUMS[np.minimum(ranks, _FIRST)]
    beyond = ranks > _FIRST
    if beyond.any():
        sums[beyond] += _tail(ranks[beyond].astype(np.float64))
    return np.asarray(sums)


def _tail(m: Floats) -> Floats:
    """The terms after the table, by Euler and Maclaurin; exact to double precision.

    With u = log(x + 1) the integral of 1 / log2(x + 1) is log(2) times that of exp(u) / u, which
    Gauss-Legendre nodes take for any m that fits into 64 bits.
    """
    low, high = math.log(_FIRST + 1.0), np.log(m + 1.0)
    half = 0.5 * (high - low)
    integral = np.zeros_like(m)
    for node, weight in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True):
        u = low + half * (1.0 + node)
        integral += weight * np.exp(u) / u
    ends = [(math.log(2.0) / u, x + 1.0, u) for x, u in ((m, high), (float(_FIRST), low))]
    values = 0.5 * (ends[0][0] - ends[1][0])
    slopes = [-value / (x * u) for value, x, u in ends]
    return np.asarray(math.log(2.0) * half * integral + values + (slopes[0] - slopes[1]) / 12.0)
