"""Several metrics at once, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from coophash import _measures
from coophash._options import Cost, Divisor, Empty, Gain, Graded, Ties, check_choice
from coophash.relevance import Retrieval, check_retrieval

DEFAULT = ("map", "precision@100", "recall@100", "ndcg@100", "precision@r=2")

_NAME = re.compile(r"(map|precision|recall|ndcg|ramap)(?:@(r=)?(\d{1,18}))?")
_FORMS = "map, map@K, precision@K, recall@K, ndcg, ndcg@K, precision@r=R, ramap or ramap@r=R"


@overload
def evaluate(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    measures: Sequence[str] = ..., ties: Ties = ..., empty: Empty = ...,
    *, divisor: Divisor = ..., gain: Gain = ..., relevance: Graded = ..., cost: Cost = ...,
    per_query: Literal[False] = ..., exclude: Any = ..., threads: int | None = ...,
) -> dict[str, float]: ...  # fmt: skip
@overload
def evaluate(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any,
    measures: Sequence[str] = ..., ties: Ties = ..., empty: Empty = ...,
    *, divisor: Divisor = ..., gain: Gain = ..., relevance: Graded = ..., cost: Cost = ...,
    per_query: Literal[True], exclude: Any = ..., threads: int | None = ...,
) -> dict[str, NDArray[np.float64]]: ...  # fmt: skip
def evaluate(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    measures: Sequence[str] = DEFAULT,
    ties: Ties = "average",
    empty: Empty = "zero",
    *,
    divisor: Divisor = "relevant",
    gain: Gain = "exponential",
    relevance: Graded = "graded",
    cost: Cost = "none",
    per_query: bool = False,
    exclude: Any = None,
    threads: int | None = None,
) -> dict[str, float] | dict[str, NDArray[np.float64]]:
    """Several metrics from one pass over the database: the price of one.

    Args:
        query_codes, database_codes, query_labels, database_labels: as for
            `mean_average_precision`.
        measures: which, by name: "map", "map@K", "precision@K", "recall@K", "ndcg", "ndcg@K" of the
            first K; "precision@r=R" within radius R, "ramap", "ramap@r=R" with 8 x width for the
            number of bits.
        ties, empty: as for each of them.
        divisor, gain, relevance, cost: as for `mean_average_precision`, `ndcg` and
            `radius_aware_map`, for all measures that have them.
        per_query, exclude, threads: see the top of `coophash.metrics`.

    Returns:
        name -> mean over the queries, or value of each query, float64 (Q,).

    Raises:
        ValueError: also for a name that is not known.
    """
    for name, value, choices in (
        ("ties", ties, Ties), ("empty", empty, Empty), ("divisor", divisor, Divisor),
        ("gain", gain, Gain), ("relevance", relevance, Graded), ("cost", cost, Cost),
    ):  # fmt: skip
        check_choice(name, value, choices)
    if isinstance(measures, str) or not isinstance(measures, Sequence) or not measures:
        raise TypeError(f"measures must be a list of names, {_FORMS}; got {measures!r}")
    parts = [split_name(name) for name in measures]
    data = check_retrieval(
        query_codes, database_codes, query_labels, database_labels, exclude, threads
    )
    chosen = [
        _measure(name, *part, data, divisor, gain, relevance, cost)
        for name, part in zip(measures, parts, strict=True)
    ]
    values = _measures.values(data, chosen, ties)
    if per_query:
        each = np.nan_to_num(values) if empty == "zero" else values
        return dict(zip(measures, each, strict=True))
    return {
        name: _measures.mean(row, empty, measure.defined)
        for name, row, measure in zip(measures, values, chosen, strict=True)
    }


def split_name(name: Any) -> tuple[str, int | None, int | None]:
    """(kind, k, radius) of a measure's name; what is not in it is None."""
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    kind, radius, number = found.groups() if found else ("", None, None)
    if (
        not found
        or (number is None and kind in ("precision", "recall"))
        or (radius is not None and kind not in ("precision", "ramap"))
        or (radius is None and number is not None and (kind == "ramap" or int(number) < 1))
    ):
        raise ValueError(f"measures must be {_FORMS}, with K >= 1 and R >= 0; got {name!r}")
    value = None if number is None else int(number)
    return (kind, None, value) if radius else (kind, value, None)


def _measure(
    name: str,
    kind: str,
    k: int | None,
    radius: int | None,
    data: Retrieval,
    divisor: Divisor,
    gain: Gain,
    relevance: Graded,
    cost: Cost,
) -> _measures.Measure:
    k = None if k is None else min(k, data.items)
    if kind == "ramap":
        last = data.bits if radius is None else radius
        if last > data.bits:
            raise ValueError(f"measures: {name!r} goes beyond the {data.bits} bits of the codes")
        return _measures.RadiusAware(last, data.bits, cost)
    if radius is not None:
        return _measures.RadiusPrecision(radius)
    if kind == "map":
        return _measures.AveragePrecision(k, divisor)
    if kind == "ndcg":
        return _measures.Ndcg(k, gain, relevance)
    return _measures.Precision(k) if kind == "precision" else _measures.Recall(k)
