"""What a query is worth: one class for each measure, computed from histograms or from a ranking.

`values` brings data and measures together in one pass over the database.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coophash import _gains
from coophash import ties as _ties
from coophash._options import Cost, Divisor, Empty, Gain, Graded, Ties
from coophash.relevance import Retrieval
from coophash.ties import Counts, Floats, Order

RELEVANT = "has a relevant item in the database"


@dataclass(frozen=True)
class Tally:
    """Histograms of a block of B queries.

    Attributes:
        total, relevant: int64 (B, distances).
        graded: int64 (B, distances, G), items that share 1 .. G labels; G = 1 where labels are
            classes or no measure asks for more.
    """

    total: Counts
    relevant: Counts
    graded: Counts

    @property
    def items(self) -> Counts:
        """Items that count for each query, (B,)."""
        return np.asarray(self.total.sum(axis=1))

    @property
    def found(self) -> Counts:
        """Relevant items for each query, (B,)."""
        return np.asarray(self.relevant.sum(axis=1))


class Measure(Protocol):
    """A value for each query, float64 (B,); NaN where it is 0/0."""

    @property
    def k(self) -> int | None:
        """How many ranks count; None for all."""

    @property
    def ranked(self) -> bool:
        """Whether the order of ties matters."""

    @property
    def graded(self) -> bool:
        """Whether the number of shared labels matters."""

    @property
    def defined(self) -> str:
        """Which queries have a value, to be read after "query"."""

    def of_tally(self, tally: Tally, order: Order) -> Floats: ...

    def of_ranking(self, shared: NDArray[np.uint16], tally: Tally) -> Floats:
        """From shared (B, K), as `Retrieval.rankings` yields it, K >= min(k, items)."""


@dataclass(frozen=True)
class _Ranked:
    k: int | None = None

    ranked = True
    graded = False
    defined = RELEVANT

    def cut(self, shared: NDArray[np.uint16]) -> NDArray[np.uint16]:
        return shared if self.k is None else shared[:, : self.k]

    def ranks(self, tally: Tally) -> Counts:
        """How many ranks there are to fill, (B,): min(k, items)."""
        return tally.items if self.k is None else np.minimum(tally.items, self.k)

    def limit(self, tally: Tally) -> int:
        """k, or one that leaves nothing out."""
        return int(tally.items.max(initial=1)) if self.k is None else self.k


@dataclass(frozen=True)
class AveragePrecision(_Ranked):
    divisor: Divisor = "relevant"

    def of_tally(self, tally: Tally, order: Order) -> Floats:
        return _ties.average_precision(
            tally.total, tally.relevant, max(1, self.limit(tally)), order, self.divisor
        )

    def of_ranking(self, shared: NDArray[np.uint16], tally: Tally) -> Floats:
        relevant = self.cut(shared) > 0
        hits = np.cumsum(relevant, axis=1)
        ranks = np.arange(1, relevant.shape[1] + 1)
        sums = ((hits / ranks) * relevant).sum(axis=1)
        found = tally.found
        most = np.minimum(found, self.ranks(tally))
        divide_by = most if self.divisor == "relevant" else hits[:, -1]
        return np.where(found > 0, sums / np.maximum(divide_by, 1), np.nan)


@dataclass(frozen=True)
class _Hits(_Ranked):
    def of_tally(self, tally: Tally, order: Order) -> Floats:
        hits = _ties.hits_at_k(tally.total, tally.relevant, max(1, self.limit(tally)), order)
        return self.share(hits, tally)

    def of_ranking(self, shared: NDArray[np.uint16], tally: Tally) -> Floats:
        return self.share((self.cut(shared) > 0).sum(axis=1).astype(np.float64), tally)

    def share(self, hits: Floats, tally: Tally) -> Floats:
        raise NotImplementedError


@dataclass(frozen=True)
class Precision(_Hits):
    def share(self, hits: Floats, tally: Tally) -> Floats:
        return np.where(tally.found > 0, hits / np.maximum(self.ranks(tally), 1), np.nan)


@dataclass(frozen=True)
class Recall(_Hits):
    def share(self, hits: Floats, tally: Tally) -> Floats:
        return quotient(hits, tally.found, np.nan)


@dataclass(frozen=True)
class Ndcg(_Ranked):
    gain: Gain = "exponential"
    relevance: Graded = "graded"

    @property
    def graded(self) -> bool:  # type: ignore[override]
        return self.relevance == "graded"

    def of_tally(self, tally: Tally, order: Order) -> Floats:
        counts = self._counts(tally)
        k = max(1, self.limit(tally))
        return _gains.ndcg(tally.total, counts, k, order, self._gains(counts))

    def of_ranking(self, shared: NDArray[np.uint16], tally: Tally) -> Floats:
        counts = self._counts(tally)
        gains = self._gains(counts)
        grades = self.cut(shared)
        worth = np.concatenate([[0.0], gains])[np.minimum(grades, len(gains))]
        found = worth @ _gains.discounts(grades.shape[1])
        k = max(1, self.limit(tally))
        return _gains.normalised(found, counts.sum(axis=1), k, gains)

    def _counts(self, tally: Tally) -> Counts:
        return tally.graded if self.graded else tally.relevant[:, :, None]

    def _gains(self, counts: Counts) -> Floats:
        return _gains.gains_of(counts.shape[2], self.gain == "exponential")


@dataclass(frozen=True)
class _Set:
    """A measure of what lies within radii, where the order of ties does not enter."""

    radius: int

    k = None
    ranked = False
    graded = False

    @property
    def defined(self) -> str:
        return f"has an item within radius {self.radius}"

    def of_ranking(self, shared: NDArray[np.uint16], tally: Tally) -> Floats:
        return self.of_tally(tally, "average")

    def of_tally(self, tally: Tally, order: Order) -> Floats:
        raise NotImplementedError


@dataclass(frozen=True)
class RadiusPrecision(_Set):
    def of_tally(self, tally: Tally, order: Order) -> Floats:
        within = slice(0, self.radius + 1)
        hits, found = (x[:, within].sum(axis=1) for x in (tally.relevant, tally.total))
        return quotient(hits, found, np.nan)


@dataclass(frozen=True)
class RadiusAware(_Set):
    """See `coophash.metrics.radius_aware_map`; radius <= bits <= the longest distance."""

    bits: int
    cost: Cost = "none"

    def of_tally(self, tally: Tally, order: Order) -> Floats:
        radii = self.radius + 1
        hits, found = (np.cumsum(x[:, :radii], axis=1) for x in (tally.relevant, tally.total))
        weights = np.ones(radii)
        if self.cost == "buckets":
            weights = np.array(list(_inverse_buckets(self.bits, self.radius)))
        sums = quotient(hits, found, 0.0) @ weights
        return np.where(found[:, -1] > 0, sums / radii, np.nan)


def _inverse_buckets(bits: int, radius: int) -> Iterator[float]:
    """1 over the number of codes within radius 0, 1, ..., of a code."""
    buckets = 0
    for distance in range(radius + 1):
        buckets += math.comb(bits, distance)
        yield 1 / buckets


def values(data: Retrieval, measures: Sequence[Measure], ties: Ties) -> NDArray[np.float64]:
    """The value of each measure for each query, float64 (measures, Q); NaN where it is 0/0."""
    if any(measure.graded for measure in measures):
        data = data.graded()
    out = np.empty((len(measures), data.queries))
    ranked = [measure for measure in measures if measure.ranked]
    if ties == "stable" and ranked:
        ks = [data.items if m.k is None else m.k for m in ranked]
        for rows, shared in data.rankings(min(max(ks), data.items)):
            tally = _tally(*data.histogram(rows))
            for out_row, measure in zip(out, measures, strict=True):
                out_row[rows] = measure.of_ranking(shared, tally)
        return out
    order: Order = "average" if ties == "stable" else ties
    for rows, total, relevant in data.histograms():
        tally = _tally(total, relevant)
        for out_row, measure in zip(out, measures, strict=True):
            out_row[rows] = measure.of_tally(tally, order)
    return out


def _tally(total: Counts, relevant: Counts) -> Tally:
    if relevant.ndim == 2:
        return Tally(total, relevant, relevant[:, :, None])
    return Tally(total, relevant.sum(axis=2), relevant)


def mean(values: NDArray[np.float64], empty: Empty, defined: str) -> float:
    """Mean of per-query values where NaN marks 0/0."""
    if empty == "zero":
        return float(np.nan_to_num(values).mean())
    some = values[~np.isnan(values)]
    if some.size == 0:
        raise ValueError(f'no query {defined}: nothing is left to average under empty="skip"')
    return float(some.mean())


def quotient(
    numerator: NDArray[Any], denominator: NDArray[Any], undefined: float
) -> NDArray[np.float64]:
    out = np.full(numerator.shape, undefined)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def result(
    data: Retrieval, measure: Measure, ties: Ties, empty: Empty, per_query: bool
) -> float | NDArray[np.float64]:
    """The mean of one measure over the queries, or its value for each."""
    each = np.asarray(values(data, [measure], ties)[0])
    if not per_query:
        return mean(each, empty, measure.defined)
    return np.nan_to_num(each) if empty == "zero" else each
