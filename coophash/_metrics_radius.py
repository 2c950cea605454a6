"""Metrics of what lies within a Hamming radius, as a lookup in hash buckets finds it.

The items within a radius are a set: no order of ties enters.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from coophash import _measures
from coophash._measures import quotient
from coophash._options import Cost, Empty, Mean, check_choice, check_integer
from coophash.codes import check_bits, check_codes
from coophash.relevance import Retrieval, check_retrieval


class PrecisionRecallCurve(NamedTuple):
    """Precision and recall of everything within each radius.

    Attributes:
        precision, recall: float64, (bits + 1,).
        radius: int64, (bits + 1,): 0 to bits.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    radius: NDArray[np.int64]


@overload
def precision_at_radius(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    radius: int = ..., empty: Empty = ...,
    *, per_query: Literal[False] = ..., exclude: Any = ..., threads: int | None = ...,
) -> float: ...  # fmt: skip
@overload
def precision_at_radius(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    radius: int = ..., empty: Empty = ...,
    *, per_query: Literal[True], exclude: Any = ..., threads: int | None = ...,
) -> NDArray[np.float64]: ...  # fmt: skip
def precision_at_radius(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    radius: int = 2,
    empty: Empty = "zero",
    *,
    per_query: bool = False,
    exclude: Any = None,
    threads: int | None = None,
) -> float | NDArray[np.float64]:
    """Share of relevant items among those within a Hamming radius, mean over the queries.

    No order of ties enters: the items within a radius are a set.

    Args:
        query_codes, database_codes, query_labels, database_labels: as for
            `mean_average_precision`.
        radius: distance <= radius counts; at least 0.
        empty: what a query with nothing within the radius counts. The field's rule is "zero":
            a lookup that finds nothing has failed.
        per_query, exclude, threads: see the top of `coophash.metrics`.
    """
    check_choice("empty", empty, Empty)
    check_integer("radius", radius, 0)
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    measure = _measures.RadiusPrecision(int(radius))
    return _measures.result(data, measure, "average", empty, per_query)


def precision_recall_curve(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    bits: int | None = None,
    average: Mean = "macro",
    empty: Empty = "zero",
    *,
    exclude: Any = None,
    threads: int | None = None,
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
        exclude, threads: see the top of `coophash.metrics`.

    Raises:
        ValueError: also where `bits` does not fit the codes' width, or bits beyond it are set.
    """
    check_choice("average", average, Mean)
    check_choice("empty", empty, Empty)
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    last = _check_bits(bits, data)
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
                sums[0] += quotient(hits, denominator, 0.0).sum(axis=0)
                sums[1] += (denominator > 0).sum(axis=0) if empty == "skip" else len(hits)
    undefined = 0.0 if empty == "zero" else np.nan
    return PrecisionRecallCurve(
        quotient(precision[0], precision[1], undefined),
        quotient(recall[0], recall[1], undefined),
        np.arange(last + 1),
    )


@overload
def radius_aware_map(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    radius: int | None = ..., cost: Cost = ..., bits: int | None = ..., empty: Empty = ...,
    *, per_query: Literal[False] = ..., exclude: Any = ..., threads: int | None = ...,
) -> float: ...  # fmt: skip
@overload
def radius_aware_map(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    radius: int | None = ..., cost: Cost = ..., bits: int | None = ..., empty: Empty = ...,
    *, per_query: Literal[True], exclude: Any = ..., threads: int | None = ...,
) -> NDArray[np.float64]: ...  # fmt: skip
def radius_aware_map(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    radius: int | None = None,
    cost: Cost = "none",
    bits: int | None = None,
    empty: Empty = "zero",
    *,
    per_query: bool = False,
    exclude: Any = None,
    threads: int | None = None,
) -> float | NDArray[np.float64]:
    """Precision within radius r, mean over r = 0 .. R, mean over the queries (RAMAP@R).

    Exactly this is computed, for each query:

        RAAP@R = 1 / (R + 1) * sum_{r=0..R} P(r) / T(r)

    P(r) is the share of relevant items among those within radius r, 0 if there are none; T(r) is 1,
    or the number of buckets that a lookup within r visits, sum_{i=0..r} binomial(bits, i).

    Jiang, Li and Li, "On the Evaluation Metric for Hashing" (arXiv 1905.10951), proposed RAMAP to
    see the radius and the time of a bucket search. That they define RAAP and RAMAP@R and put a
    price on time is verified; their equation is not: it could not be read, and the formula above is
    that of independent implementations that cite the paper, in which T is an option, off by
    default. So compare a published RAMAP with this one only where a common case agrees.

    Args:
        query_codes, database_codes, query_labels, database_labels: as for
            `mean_average_precision`.
        radius: R, from 0 to bits; None for bits.
        cost: "none" for T(r) = 1, where finding only relevant items from radius 0 on gives 1;
            "buckets" for the number of buckets, where all but the first radii hardly count.
        bits: bits per code, 8 x width by default.
        empty: what a query with nothing within radius R counts.
        per_query, exclude, threads: see the top of `coophash.metrics`.

    Raises:
        ValueError: also where `bits` does not fit the codes' width, or bits beyond it are set.
    """
    check_choice("cost", cost, Cost)
    check_choice("empty", empty, Empty)
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    length = _check_bits(bits, data)
    last = length if radius is None else check_integer("radius", radius, 0)
    if last > length:
        raise ValueError(f"radius must be at most the number of bits, {length}, got {last}")
    measure = _measures.RadiusAware(last, length, cost)
    return _measures.result(data, measure, "average", empty, per_query)


def _check_bits(bits: int | None, data: Retrieval) -> int:
    if bits is None:
        return data.bits
    length = check_bits(bits)
    check_codes(data.query_codes, "query_codes", length)
    check_codes(data.database_codes, "database_codes", length)
    return length
