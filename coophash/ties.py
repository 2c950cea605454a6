"""Average precision and hits from histograms, for every order of tied items at once.

Items at the same Hamming distance have no order of their own. McSherry and Najork, "Computing
information retrieval performance measures efficiently in the presence of tied scores" (ECIR 2008),
give the expected value over all orders of the ties; here its inner sum is closed by harmonic
numbers, so the cost per query is one term per distance, not per item.

Notation for one group of ties: n items and p relevant ones stand before it; it has t items, r of
them relevant; the cut-off k leaves c of its places, c = clip(k - n, 0, t).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["average", "best", "worst"]
Divisor = Literal["relevant", "hits"]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

# H(0) .. H(256); beyond, four terms of the asymptotic series are exact to double precision.
_FIRST = 256
_HARMONIC = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, _FIRST + 1))])


def average_precision(
    total: Counts, relevant: Counts, k: int, order: Order, divisor: Divisor
) -> Floats:
    """Average precision at k of each query.

    Args:
        total, relevant: int64, (Q, distances): items, and relevant items, at each distance.
        k: how many ranks count, 1 <= k.
        order: "average" for the expected value over all orders of ties, each equally likely;
            "best" and "worst" for the largest and smallest value that any order gives.
        divisor: "relevant" divides by min(R, k), R the number of relevant items; "hits" by the
            relevant items within the first k.

    Returns:
        float64, (Q,); NaN where there is no relevant item at all.
    """
    before = np.cumsum(total, axis=1) - total
    relevant_before = np.cumsum(relevant, axis=1) - relevant
    cut = np.clip(k - before, 0, total)
    found = relevant.sum(axis=1)
    if divisor == "relevant":
        sums = _group_sums(before, relevant_before, total, relevant, cut, order).sum(axis=1)
        return _ratio(sums, np.minimum(found, k), where=found > 0)

    # The number of hits depends on the order of one group at most: the one that k cuts in two.
    whole = np.where(cut == total, cut, 0)
    sums = _group_sums(before, relevant_before, total, relevant, whole, order).sum(axis=1)
    hits = np.where(cut == total, relevant, 0).sum(axis=1)
    result = np.asarray(sums / np.maximum(hits, 1))
    for q, g in np.argwhere((cut > 0) & (cut < total) & (relevant > 0)).tolist():
        n, p, t, r, c = (int(x[q, g]) for x in (before, relevant_before, total, relevant, cut))
        result[q] = _cut_group(float(sums[q]), n, p, t, r, c, order)
    result[found == 0] = np.nan
    return result


def hits_at_k(total: Counts, relevant: Counts, k: int, order: Order) -> Floats:
    """Relevant items among the first k, of each query: expected, most or fewest; float64, (Q,)."""
    cut = np.clip(k - (np.cumsum(total, axis=1) - total), 0, total)
    if order == "best":
        hits = np.minimum(relevant, cut)
    elif order == "worst":
        hits = np.maximum(0, cut - (total - relevant))
    else:
        return np.asarray((relevant * (cut / np.maximum(total, 1))).sum(axis=1), dtype=np.float64)
    return np.asarray(hits.sum(axis=1), dtype=np.float64)


def _group_sums(n: Counts, p: Counts, t: Counts, r: Counts, c: Counts, order: Order) -> Floats:
    """Sum of the precisions at the relevant ranks among the first c places of each group."""
    if order == "best":  # the relevant items come first
        return _run(n, p, np.minimum(r, c))
    if order == "worst":  # they come last
        return _run(n + t - r, p, np.maximum(0, c - (t - r)))
    # Place i of the group, 1 <= i <= c, holds a relevant item with probability r / t; if so, the
    # i - 1 places before it hold (i - 1) (r - 1) / (t - 1) relevant ones on average. So the sum is
    #   r/t * sum_i (p + 1 + (i - 1) b) / (n + i),   b = (r - 1) / (t - 1),
    # and i - 1 = (n + i) - (n + 1) turns it into b c + (p + 1 - b (n + 1)) (H(n + c) - H(n)).
    share = r / np.maximum(t, 1)
    b = (r - 1) / np.maximum(t - 1, 1)
    sums = share * (b * c + (p + 1 - b * (n + 1)) * _harmonic_between(n, n + c))
    return np.asarray(np.where(r > 0, sums, 0.0))


def _run(n: Counts, p: Counts, m: Counts) -> Floats:
    """sum_{j=1..m} (p + j) / (n + j): m relevant items in a row behind n items, p relevant."""
    return np.asarray(m + (p - n) * _harmonic_between(n, n + m), dtype=np.float64)


def _cut_group(sums: float, n: int, p: int, t: int, r: int, c: int, order: Order) -> float:
    """Average precision divided by hits, where the cut-off leaves c of the group's t places.

    With h relevant items among those c places, all orders of the c are equally likely, and h
    itself is hypergeometric. `sums` is the sum over the groups before this one.
    """
    h = np.arange(max(0, c - (t - r)), min(r, c) + 1)
    full_n, full_p, places = (np.full_like(h, x) for x in (n, p, c))
    inside = _group_sums(full_n, full_p, places, h, places, order)
    values = np.divide(sums + inside, p + h, out=np.zeros(len(h)), where=p + h > 0)
    if order == "best":
        return float(values.max())
    if order == "worst":
        return float(values.min())
    # log P(h + 1) - log P(h), summed and normalised: no factorials, no loss of digits.
    step = h[:-1]
    ratios = np.log((r - step) * (c - step) / ((step + 1.0) * (t - r - c + step + 1.0)))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    weights = np.exp(logs - logs.max())
    return float(weights @ values / weights.sum())


def _harmonic_between(n: Counts, m: Counts) -> Floats:
    """H(m) - H(n) for n <= m, without a table as long as the database."""
    low = _HARMONIC[np.minimum(m, _FIRST)] - _HARMONIC[np.minimum(n, _FIRST)]
    start, end = np.maximum(n, _FIRST), np.maximum(m, _FIRST)
    # H(x) = log x + gamma + 1/(2x) - 1/(12x^2) + 1/(120x^4) - ...
    tail = np.log1p((end - start) / start)
    tail += 0.5 / end - 0.5 / start
    tail -= (1.0 / end**2.0 - 1.0 / start**2.0) / 12.0
    tail += (1.0 / end**4.0 - 1.0 / start**4.0) / 120.0
    return np.asarray(low + tail, dtype=np.float64)


def _ratio(numerator: Floats, denominator: Counts, where: NDArray[np.bool_]) -> Floats:
    out = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=where)
    return out
