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

What all of them take besides:

`empty`
    a query whose value is 0/0 (nothing relevant in the database, nothing within the radius) counts
    0 under "zero", as DeepHash-pytorch and OrthoHash have it, and is left out under "skip", as UCCH
    and HashGAN have it.
`exclude`
    where queries are items of the database and must not find themselves: integers (Q,), for each
    query its row of the database, from 0; -1 for a query that is not in it.
`threads`
    how many to use; None for all cores. No value depends on it.
`per_query`
    return the value of each query, float64 (Q,), not their mean, for tests of significance and the
    like. Where it is 0/0 there stands 0 or, under `empty="skip"`, NaN.

`evaluate` gives several metrics from one pass. `coophash.metrics_torch` has them as a torchmetrics
class.

Errors are the same throughout: TypeError and ValueError naming the argument, what came and what was
expected; ValueError also where `empty="skip"` leaves no query at all.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from coophash import _measures
from coophash._metrics_named import evaluate
from coophash._metrics_radius import (
    PrecisionRecallCurve,
    precision_at_radius,
    precision_recall_curve,
    radius_aware_map,
)
from coophash._options import (
    Cost,
    Divisor,
    Empty,
    Gain,
    Graded,
    Mean,
    Ties,
    check_choice,
    check_k,
    need_k,
)
from coophash.relevance import check_retrieval

__all__ = [
    "Cost",
    "Divisor",
    "Empty",
    "Gain",
    "Graded",
    "Mean",
    "PrecisionRecallCurve",
    "Ties",
    "average_precision",
    "evaluate",
    "mean_average_precision",
    "ndcg",
    "precision_at_k",
    "precision_at_radius",
    "precision_recall_curve",
    "radius_aware_map",
    "recall_at_k",
]


def mean_average_precision(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int | None = None,
    ties: Ties = "average",
    empty: Empty = "zero",
    divisor: Divisor = "relevant",
    *,
    exclude: Any = None,
    threads: int | None = None,
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
        exclude, threads: see the top of this module.
    """
    check_choice("empty", empty, Empty)
    values = average_precision(
        query_codes, database_codes, query_labels, database_labels, k, ties, divisor,
        exclude=exclude, threads=threads,
    )  # fmt: skip
    return _measures.mean(values, empty, _measures.RELEVANT)


def average_precision(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int | None = None,
    ties: Ties = "average",
    divisor: Divisor = "relevant",
    *,
    exclude: Any = None,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Average precision at k of each query, float64, (Q,); NaN where nothing is relevant.

    Arguments as for `mean_average_precision`, which is the mean of these.
    """
    check_choice("ties", ties, Ties)
    check_choice("divisor", divisor, Divisor)
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    measure = _measures.AveragePrecision(check_k(k, data.items), divisor)
    return np.asarray(_measures.values(data, [measure], ties)[0])


@overload
def precision_at_k(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    k: int, ties: Ties = ..., empty: Empty = ...,
    *, per_query: Literal[False] = ..., exclude: Any = ..., threads: int | None = ...,
) -> float: ...  # fmt: skip
@overload
def precision_at_k(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    k: int, ties: Ties = ..., empty: Empty = ...,
    *, per_query: Literal[True], exclude: Any = ..., threads: int | None = ...,
) -> NDArray[np.float64]: ...  # fmt: skip
def precision_at_k(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int,
    ties: Ties = "average",
    empty: Empty = "zero",
    *,
    per_query: bool = False,
    exclude: Any = None,
    threads: int | None = None,
) -> float | NDArray[np.float64]:
    """Share of relevant items among the k nearest, mean over the queries.

    Args:
        query_codes, database_codes, query_labels, database_labels, ties: as for
            `mean_average_precision`.
        k: how many of the nearest count; more than N is the same as N.
        empty: what a query with no relevant item in the database counts: its precision, 0, or
            nothing.
        per_query, exclude, threads: see the top of this module.
    """
    check_choice("ties", ties, Ties)
    check_choice("empty", empty, Empty)
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    measure = _measures.Precision(need_k(k, data.items, "precision"))
    return _measures.result(data, measure, ties, empty, per_query)


@overload
def recall_at_k(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    k: int, ties: Ties = ..., empty: Empty = ...,
    *, per_query: Literal[False] = ..., exclude: Any = ..., threads: int | None = ...,
) -> float: ...  # fmt: skip
@overload
def recall_at_k(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    k: int, ties: Ties = ..., empty: Empty = ...,
    *, per_query: Literal[True], exclude: Any = ..., threads: int | None = ...,
) -> NDArray[np.float64]: ...  # fmt: skip
def recall_at_k(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int,
    ties: Ties = "average",
    empty: Empty = "zero",
    *,
    per_query: bool = False,
    exclude: Any = None,
    threads: int | None = None,
) -> float | NDArray[np.float64]:
    """Share of a query's relevant items that are among its k nearest, mean over the queries.

    Args:
        query_codes, database_codes, query_labels, database_labels, ties: as for
            `mean_average_precision`.
        k: how many of the nearest count; at N and more every recall is 1.
        empty: what a query with no relevant item in the database counts.
        per_query, exclude, threads: see the top of this module.
    """
    check_choice("ties", ties, Ties)
    check_choice("empty", empty, Empty)
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    measure = _measures.Recall(need_k(k, data.items, "recall"))
    return _measures.result(data, measure, ties, empty, per_query)


@overload
def ndcg(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    k: int | None = ..., ties: Ties = ..., empty: Empty = ...,
    gain: Gain = ..., relevance: Graded = ...,
    *, per_query: Literal[False] = ..., exclude: Any = ..., threads: int | None = ...,
) -> float: ...  # fmt: skip
@overload
def ndcg(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    k: int | None = ..., ties: Ties = ..., empty: Empty = ...,
    gain: Gain = ..., relevance: Graded = ...,
    *, per_query: Literal[True], exclude: Any = ..., threads: int | None = ...,
) -> NDArray[np.float64]: ...  # fmt: skip
def ndcg(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    k: int | None = None,
    ties: Ties = "average",
    empty: Empty = "zero",
    gain: Gain = "exponential",
    relevance: Graded = "graded",
    *,
    per_query: bool = False,
    exclude: Any = None,
    threads: int | None = None,
) -> float | NDArray[np.float64]:
    """Normalised discounted cumulative gain at k (NDCG@k), mean over the queries.

    DCG@k is the sum over the ranks i = 1 .. k of gain(g_i) / log2(i + 1), g_i the grade of the item
    at rank i; NDCG@k divides it by the DCG@k of the database in the order of its grades, the
    largest that there is (Järvelin and Kekäläinen 2002, with the discount of Burges et al. 2005).

    Args:
        query_codes, database_codes, query_labels, database_labels, ties: as for
            `mean_average_precision`.
        k: how many ranks count; None for all. More than N is the same as N.
        empty: what a query with no relevant item in the database counts.
        gain: "exponential" for 2^g - 1, which papers on hashing with several labels use; "linear"
            for g, which scikit-learn and torchmetrics use. The same where g is 0 or 1.
        relevance: "graded" for g = the number of labels shared with the query; "binary" for g = 1
            where at least one is. The same with classes.
        per_query, exclude, threads: see the top of this module.
    """
    check_choice("ties", ties, Ties)
    check_choice("empty", empty, Empty)
    check_choice("gain", gain, Gain)
    check_choice("relevance", relevance, Graded)
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    measure = _measures.Ndcg(check_k(k, data.items), gain, relevance)
    return _measures.result(data, measure, ties, empty, per_query)
