"""Retrieval metrics for binary codes, right in the presence of ties.

Hamming distances are small integers, so most of a ranking is ties and a metric that sorts and
takes what comes has no value of its own: for one query over 54,000 items at 16 bits, the order of
ties alone can move average precision from .46 to .72. Here the order is an argument:

`ties="average"`
    the expected value over all orders of tied items, exact and in closed form (McSherry and
    Najork 2008); no ranking is made.
`ties="stable"`
    tied items in the order of the database, as `HammingIndex.search` returns them when ids are
    given in order of arrival.
`ties="best"`, `ties="worst"`
    the largest and smallest value that any order gives, for each query.

Every function takes packed codes, uint8 (Q, width) and (N, width) of `coophash.pack`, and labels:
classes, integers (N,), where relevant means the same class; or multi-hot, zeros and ones (N, C),
where relevant means at least one class shared. NumPy arrays, torch tensors and anything with DLPack
are accepted; results are floats and NumPy arrays. Memory does not grow with queries x database.

A query whose value is 0/0 (nothing relevant in the database, nothing within the radius) counts 0
under `empty="zero"`, as DeepHash-pytorch and OrthoHash have it, and is left out under
`empty="skip"`, as UCCH and HashGAN have it.

Errors are the same throughout: TypeError and ValueError naming the argument, what came and what was
expected; ValueError also where `empty="skip"` leaves no query at all.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
from numpy.typing import NDArray

from coophash import ties as _ties
from coophash.codes import check_bits, check_codes
from coophash.relevance import Retrieval, check_retrieval

Ties = Literal["average", "stable", "best", "worst"]
Empty = Literal["zero", "skip"]
Divisor = Literal["relevant", "hits"]
Mean = Literal["macro", "micro"]

__all__ = [
    "PrecisionRecallCurve",
    "average_precision",
    "mean_average_precision",
    "precision_at_k",
    "precision_at_radius",
    "precision_recall_curve",
]


class PrecisionRecallCurve(NamedTuple):
    """Precision and recall of everything within each radius.

    Attributes:
        precision, recall: float64, (bits + 1,).
        radius: int64, (bits + 1,): 0 to bits.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    radius: NDArray[np.int64]


def mean_average_precision(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int | None = None,
    ties: Ties = "average",
    empty: Empty = "zero",
    divisor: Divisor = "relevant",
) -> float:
    """Mean over the queries of the average precision at k (mAP@k), from 0 to 1.

    Args:
        query_codes, database_codes: packed codes, uint8, (Q, width) and (N, width).
        query_labels, database_labels: classes (Q,) and (N,), or multi-hot (Q, C) and (N, C).
        k: how many ranks count; None for all (mAP@all). More than N is the same as N.
        ties: the order of items at the same distance, see the top of this module.
        empty: what a query with no relevant item in the database counts.
        divisor: what the sum of precisions is divided by when k cuts the ranking: "relevant" for
            min(R, k), R relevant items in the database, the value that a perfect ranking brings to
            1; "hits" for the relevant items found among the first k, as DeepHash-pytorch,
            OrthoHash and UCCH divide, which can reward finding fewer; a query that finds none
            counts 0. Under `ties="average"` both are exact, "hits" over the hypergeometric number
            of hits. The same without k.
    """
    _check_choice("empty", empty, Empty)
    values = average_precision(
        query_codes, database_codes, query_labels, database_labels, k, ties, divisor
    )
    return _mean(values, empty, "has a relevant item in the database")


def average_precision(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int | None = None,
    ties: Ties = "average",
    divisor: Divisor = "relevant",
) -> NDArray[np.float64]:
    """Average precision at k of each query, float64, (Q,); NaN where nothing is relevant.

    Arguments as for `mean_average_precision`, which is the mean of these.
    """
    _check_choice("ties", ties, Ties)
    _check_choice("divisor", divisor, Divisor)
    data = check_retrieval(query_codes, database_codes, query_labels, database_labels)
    cut = _check_k(k, data)
    values = np.empty(data.queries)
    if ties != "stable":
        for rows, total, relevant in data.histograms():
            values[rows] = _ties.average_precision(total, relevant, cut, ties, divisor)
        return values
    found = _relevant_items(data)
    ranks = np.arange(1, cut + 1)
    for block, ranked in data.rankings(cut):
        hits = np.cumsum(ranked, axis=1)
        sums = ((hits / ranks) * ranked).sum(axis=1)
        divide_by = np.minimum(found[block], cut) if divisor == "relevant" else hits[:, -1]
        values[block] = np.where(found[block] > 0, sums / np.maximum(divide_by, 1), np.nan)
    return values


@overload
def precision_at_k(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int,
    ties: Ties = ...,
    per_query: Literal[False] = ...,
) -> float: ...
@overload
def precision_at_k(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int,
    ties: Ties = ...,
    *,
    per_query: Literal[True],
) -> NDArray[np.float64]: ...
def precision_at_k(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int,
    ties: Ties = "average",
    per_query: bool = False,
) -> float | NDArray[np.float64]:
    """Share of relevant items among the k nearest, mean over the queries.

    Args:
        query_codes, database_codes, query_labels, database_labels, ties: as for
            `mean_average_precision`.
        k: how many of the nearest count; more than N is the same as N.
        per_query: return the value of each query, float64, (Q,), not their mean.
    """
    _check_choice("ties", ties, Ties)
    data = check_retrieval(query_codes, database_codes, query_labels, database_labels)
    if k is None:
        raise TypeError("k must be an integer >= 1, got None: the precision of what rank?")
    cut = _check_k(k, data)
    values = np.empty(data.queries)
    if ties == "stable":
        for block, ranked in data.rankings(cut):
            values[block] = ranked.sum(axis=1) / cut
    else:
        for rows, total, relevant in data.histograms():
            values[rows] = _ties.hits_at_k(total, relevant, cut, ties) / cut
    return values if per_query else float(values.mean())


@overload
def precision_at_radius(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    radius: int = ...,
    empty: Empty = ...,
    per_query: Literal[False] = ...,
) -> float: ...
@overload
def precision_at_radius(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    radius: int = ...,
    empty: Empty = ...,
    *,
    per_query: Literal[True],
) -> NDArray[np.float64]: ...
def precision_at_radius(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    radius: int = 2,
    empty: Empty = "zero",
    per_query: bool = False,
) -> float | NDArray[np.float64]:
    """Share of relevant items among those within a Hamming radius, mean over the queries.

    No order of ties enters: the items within a radius are a set.

    Args:
        query_codes, database_codes, query_labels, database_labels: as for
            `mean_average_precision`.
        radius: distance <= radius counts; at least 0.
        empty: what a query with nothing within the radius counts. The field's rule is "zero":
            a lookup that finds nothing has failed.
        per_query: return the value of each query, float64, (Q,), not their mean; under
            `empty="skip"` NaN stands where nothing is within the radius.
    """
    _check_choice("empty", empty, Empty)
    _check_integer("radius", radius, 0)
    data = check_retrieval(query_codes, database_codes, query_labels, database_labels)
    values = np.empty(data.queries)
    for rows, total, relevant in data.histograms():
        within = slice(0, int(radius) + 1)
        values[rows] = _quotient(
            relevant[:, within].sum(axis=1), total[:, within].sum(axis=1), np.nan
        )
    if per_query:
        return np.nan_to_num(values) if empty == "zero" else values
    return _mean(values, empty, f"has an item within radius {radius}")


def precision_recall_curve(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    bits: int | None = None,
    average: Mean = "macro",
    empty: Empty = "zero",
) -> PrecisionRecallCurve:
    """Precision and recall of everything within radius 0, 1, ..., bits.

    Args:
        query_codes, database_codes, query_labels, database_labels: as for
            `mean_average_precision`.
        bits: bits per code, the last radius; 8 x width by default, which for a number of bits
            that is no multiple of 8 repeats the last point.
        average: "macro" for the mean over the queries of each query's precision and recall, so
            that precision[r] is `precision_at_radius` with radius r; "micro" for those of all
            queries' results pooled.
        empty: a query with nothing within the radius has no precision, one with nothing relevant
            no recall. Under "zero" it counts 0 in that mean, under "skip" it is left out; a point
            that no query defines is then NaN. For "micro" the same holds of the pooled results.

    Raises:
        ValueError: also where `bits` does not fit the codes' width, or bits beyond it are set.
    """
    _check_choice("average", average, Mean)
    _check_choice("empty", empty, Empty)
    data = check_retrieval(query_codes, database_codes, query_labels, database_labels)
    last = data.bits
    if bits is not None:
        last = check_bits(bits)
        check_codes(data.query_codes, "query_codes", last)
        check_codes(data.database_codes, "database_codes", last)
    # Sums over the queries of numerators and denominators, one column per radius.
    precision, recall = np.zeros((2, last + 1)), np.zeros((2, last + 1))
    for _, total, relevant in data.histograms():
        hits, found = (np.cumsum(x, axis=1)[:, : last + 1] for x in (relevant, total))
        wanted = np.broadcast_to(relevant.sum(axis=1, keepdims=True), hits.shape)
        for sums, denominator in ((precision, found), (recall, wanted)):
            if average == "micro":
                sums[0] += hits.sum(axis=0)
                sums[1] += denominator.sum(axis=0)
            else:
                sums[0] += _quotient(hits, denominator, 0.0).sum(axis=0)
                sums[1] += (denominator > 0).sum(axis=0) if empty == "skip" else len(hits)
    undefined = 0.0 if empty == "zero" else np.nan
    return PrecisionRecallCurve(
        _quotient(precision[0], precision[1], undefined),
        _quotient(recall[0], recall[1], undefined),
        np.arange(last + 1),
    )


def _relevant_items(data: Retrieval) -> NDArray[np.int64]:
    """How many items of the database are relevant to each query, int64, (Q,)."""
    found = np.empty(data.queries, dtype=np.int64)
    for rows, _, relevant in data.histograms():
        found[rows] = relevant.sum(axis=1)
    return found


def _mean(values: NDArray[np.float64], empty: Empty, condition: str) -> float:
    """Mean of per-query values where NaN marks 0/0."""
    if empty == "zero":
        return float(np.nan_to_num(values).mean())
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        raise ValueError(f'no query {condition}: nothing is left to average under empty="skip"')
    return float(defined.mean())


def _quotient(
    numerator: NDArray[Any], denominator: NDArray[Any], undefined: float
) -> NDArray[np.float64]:
    out = np.full(numerator.shape, undefined)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _check_choice(name: str, value: object, choices: Any) -> None:
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")


def _check_integer(name: str, value: object, least: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer >= {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def _check_k(k: int | None, data: Retrieval) -> int:
    return data.items if k is None else min(_check_integer("k", k, 1), data.items)
