"""One ranking of a database, scored: what every evaluation here is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from coophash import metrics
from coophash._options import check_integer
from coophash.codes import as_numpy, check_codes
from coophash.encoded import EncodedSet


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of ranking a database for a set of queries, all from 0 to 1.

    Attributes:
        queries, database: how many codes of each.
        bits: bits per code.
        mean_average_precision: over the whole ranking, the expected value over all orders of
            items at the same distance.
        map_worst, map_best: the smallest and largest value that any order of ties gives.
        radius, precision_at_radius: share of right items within this Hamming distance; a query
            with nothing within it counts 0.
        k, map_at_k, precision_at_k: the same for the first k alone; None without k.
    """

    queries: int
    database: int
    bits: int
    mean_average_precision: float
    map_worst: float
    map_best: float
    radius: int
    precision_at_radius: float
    k: int | None = None
    map_at_k: float | None = None
    precision_at_k: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_codes(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    bits: int,
    radius: int = 2,
    k: int | None = None,
) -> RetrievalScores:
    """Score codes by their labels. Queries and database must be disjoint items.

    Args:
        query_codes, database_codes: packed codes, uint8, (Q, width) and (N, width).
        query_labels, database_labels: classes (Q,) and (N,), or multi-hot (Q, C) and (N, C).
        bits: bits per code.
        radius: Hamming distance for `precision_at_radius`, at least 0.
        k: also score the first k alone.

    Raises:
        TypeError, ValueError: codes of another length, or as `coophash.metrics` raises them.
    """
    data = (
        check_codes(as_numpy(query_codes, "query_codes")[0], "query_codes", bits),
        check_codes(as_numpy(database_codes, "database_codes")[0], "database_codes", bits),
        query_labels, database_labels,
    )  # fmt: skip
    check_integer("radius", radius, 0)
    if k is not None:
        check_integer("k", k, 1)
    worst, best = (
        metrics.mean_average_precision(*data, ties=ties)
        for ties in ("worst", "best")  # type: ignore[arg-type]
    )
    within = f"precision@r={radius}"
    at_k = () if k is None else (f"map@{k}", f"precision@{k}")
    found = metrics.evaluate(*data, ("map", within, *at_k))
    return RetrievalScores(
        len(query_codes), len(database_codes), bits, found["map"], worst, best,
        radius, found[within], k, *(found[name] for name in at_k),
    )  # fmt: skip


def evaluate_sets(
    queries: EncodedSet, database: EncodedSet, *, radius: int = 2, k: int | None = None
) -> RetrievalScores:
    """`evaluate_codes` of two encoded sets, which must mean the same by their bits and labels.

    Raises:
        ValueError: different numbers of bits or class names, or a set without labels.
    """
    check_comparable(queries, database)
    return evaluate_codes(
        queries.codes, database.codes, queries.labels, database.labels,
        bits=queries.bits, radius=radius, k=k,
    )  # fmt: skip


def check_comparable(queries: EncodedSet, database: EncodedSet) -> None:
    """Raise unless two encoded sets have labels and mean the same by their bits and labels.

    Raises:
        ValueError: different numbers of bits or class names, or a set without labels.
    """
    if queries.bits != database.bits:
        raise ValueError(
            f"queries have {queries.bits} bits and the database {database.bits}: encode both with "
            "the same model"
        )
    if queries.labels is None or database.labels is None:
        missing = "queries" if queries.labels is None else "database"
        raise ValueError(f"the {missing} have no labels; scores need the class of every item")
    if None not in (queries.class_names, database.class_names) and (
        queries.class_names != database.class_names
    ):
        raise ValueError(
            f"queries and database have different classes, {_few(queries)} and {_few(database)}: "
            "label 0 of one is not label 0 of the other"
        )


def _few(encoded: EncodedSet) -> str:
    names = encoded.class_names or ()
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def relative_loss(clean: RetrievalScores, shifted: RetrievalScores) -> float:
    """Share of the clean mAP that is lost; negative where it grew.

    Raises:
        ValueError: the clean mAP is 0: there is nothing to lose.
    """
    if clean.mean_average_precision == 0:
        raise ValueError("the clean mAP is 0, so a loss relative to it is not defined")
    return 1 - shifted.mean_average_precision / clean.mean_average_precision
