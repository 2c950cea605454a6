"""Exact search of packed codes in Hamming space.

Results are ordered by (distance, id), always: where the k-th place is shared by several rows at
one distance, those of the smallest ids are taken. So a result does not depend on the instruction
set, on the number of threads, or on how an index was built.

Codes are uint8 (N, width) as `coophash.pack` makes them. Every function takes NumPy arrays, torch
tensors on any device and anything with DLPack or `__cuda_array_interface__`; results are of the
kind of the queries, and where these are: tensors on their device, CuPy arrays, NumPy arrays. For
arrays of another library on a GPU they have `__cuda_array_interface__` and `.numpy()`.

A database on a GPU is searched there, on the stream that is current for the queries, if this build
has CUDA code (`coophash doctor` says); else a tensor is copied to main memory. k is at most 16,384
on a GPU. Codes must not be changed while they are searched. Filters and labels are taken in main
memory or on a GPU, and are looked at in main memory.

Environment: `COOPHASH_ISA=serial|avx2|avx512|neon` forces an instruction set, and raises
RuntimeError at the next search if it cannot run here.
"""

from __future__ import annotations

from typing import Any

from coophash import _cuda, _native
from coophash._arguments import admit_range, check_k, check_radius, pair, span
from coophash._index import HammingIndex
from coophash._labels import Labels, check_relevance
from coophash._memory import check_memory
from coophash.codes import as_numpy, check_bits

NO_DISTANCE = 2147483647
"""Distance of a missing result, where there are fewer than k rows."""
NO_ID = -1
"""Id of a missing result."""

__all__ = [
    "NO_DISTANCE",
    "NO_ID",
    "HammingIndex",
    "hamming_distances",
    "hamming_histogram",
    "hamming_range",
    "hamming_topk",
]


def hamming_topk(
    database: Any, queries: Any, k: int, *, allow: Any = None, threads: int | None = None
) -> tuple[Any, Any]:
    """The k nearest rows of `database` to each query. The row number is the id.

    Args:
        database: codes, uint8 (N, width).
        queries: codes, uint8 (Q, width).
        k: how many, >= 0; more than N gives N and missing results.
        allow: rows that count, bool (N,) or row numbers; None for all.
        threads: how many to use; None for all cores.

    Returns:
        distances: int32 (Q, k), ascending; 2147483647 where there is no row left.
        ids: int64 (Q, k), ascending where distances are equal; -1 where there is no row left.

    Raises:
        TypeError, ValueError: an argument is not what is expected; the message says how to mend it.
    """
    if _cuda.wants(database):
        target = _cuda.target_of(database, allow, "database")
        asked = _cuda.ask(queries, target, None)
        k = check_k(k, asked.codes.shape[0], asked.to_host is not None)
        return _cuda.topk(target, asked, k)
    rows, codes, restore = pair("database", database, "queries", queries)
    spans = [span(rows, allow)]
    found = _native.library().topk(
        spans,
        rows.shape[1],
        True,
        codes,
        check_k(k, codes.shape[0]),
        _native.check_threads(threads),
        _native.isa(),
    )
    return restore(found[0]), restore(found[1])


def hamming_range(
    database: Any, queries: Any, radius: int, *, allow: Any = None, threads: int | None = None
) -> tuple[Any, Any, Any]:
    """All rows of `database` within `radius` of each query. The row number is the id.

    Args:
        database: codes, uint8 (N, width).
        queries: codes, uint8 (Q, width).
        radius: the greatest distance that counts, >= 0.
        allow: rows that count, bool (N,) or row numbers; None for all.
        threads: how many to use; None for all cores.

    Returns:
        limits: int64 (Q + 1,); what was found for query q is at limits[q] to limits[q + 1].
        distances: int32 (limits[Q],).
        ids: int64 (limits[Q],), by (distance, id) for each query.

    Raises:
        MemoryError: the results are more than there is memory for; the message says how many.
        TypeError, ValueError: an argument is not what is expected; the message says how to mend it.
    """
    if _cuda.wants(database):
        target = _cuda.target_of(database, allow, "database")
        asked = _cuda.ask(queries, target, None)
        radius = check_radius(radius, target.width)
        return _cuda.range_search(target, asked, radius, admit_range(radius, asked.codes.shape[0]))
    rows, codes, restore = pair("database", database, "queries", queries)
    radius = check_radius(radius, rows.shape[1])
    found = _native.library().range(
        [span(rows, allow)],
        rows.shape[1],
        True,
        codes,
        radius,
        _native.check_threads(threads),
        _native.isa(),
        admit_range(radius, len(codes)),
    )
    return restore(found[0]), restore(found[1]), restore(found[2])


def hamming_distances(a: Any, b: Any, *, threads: int | None = None) -> Any:
    """All distances between two sets of codes, for small things: the result is N x M.

    Args:
        a: codes, uint8 (N, width).
        b: codes, uint8 (M, width).
        threads: how many to use; None for all cores.

    Returns:
        int32 (N, M), of the kind and on the device of `a`.
    """
    if _cuda.wants(a):
        return _cuda.distances(a, b)
    rows, codes, _ = pair("a", a, "b", b)
    check_memory(
        4 * rows.shape[0] * codes.shape[0], f"{rows.shape[0]} x {codes.shape[0]} distances"
    )
    restore = as_numpy(a, "a")[1]
    return restore(
        _native.library().distances(rows, codes, _native.check_threads(threads), _native.isa())
    )


def hamming_histogram(
    database: Any,
    queries: Any,
    bits: int | None = None,
    *,
    allow: Any = None,
    relevance: Any = None,
    threads: int | None = None,
) -> Any:
    """How many rows of `database` lie at each distance from each query, with no ranking.

    With labels it counts the relevant rows as well, in the same pass: what every metric under
    Hamming distance needs to know. Memory is the result's, whatever N is.

    Args:
        database: codes, uint8 (N, width).
        queries: codes, uint8 (Q, width).
        bits: length of a code; None for 8 * width.
        allow: rows that count, bool (N,) or row numbers; None for all.
        relevance: (database_labels, query_labels): classes, integers (N,) and (Q,), where relevant
            means the same class; or multi-hot, zeros and ones (N, C) and (Q, C), where relevant
            means a label in common.
        threads: how many to use; None for all cores.

    Returns:
        total: int64 (Q, bits + 1): entry [q, d] is the number of rows at distance d from query q.
        relevant: int64 (Q, bits + 1), of these the relevant ones. Without `relevance`, `total`
            alone is returned, not a tuple.

    Raises:
        MemoryError: the result is more than there is memory for; the message says how much.
        TypeError, ValueError: an argument is not what is expected; the message says how to mend it.
    """
    if bits is not None:
        bits = check_bits(bits)
    if _cuda.wants(database):
        target = _cuda.target_of(database, allow, "database", bits)
        asked = _cuda.ask(queries, target, bits)
        counted = asked.codes.shape[0]
        given = None if relevance is None else check_relevance(relevance, target.rows, counted)
        bins = (bits or 8 * target.width) + 1
        if asked.to_host is not None:
            _check_histograms(counted, bins, given)
        total, relevant = _cuda.histogram(target, asked, bins, given)
        return total if given is None else (total, relevant)
    rows, codes, restore = pair("database", database, "queries", queries, bits)
    labels = None if relevance is None else check_relevance(relevance, len(rows), len(codes))
    bins = (bits or 8 * rows.shape[1]) + 1
    _check_histograms(len(codes), bins, labels)
    counts = _native.library().histogram(
        [span(rows, allow)],
        rows.shape[1],
        codes,
        bins,
        *((None, None, 2) if labels is None else labels.native()),
        _native.check_threads(threads),
        _native.isa(),
    )
    return restore(counts) if labels is None else (restore(counts[0]), restore(counts[1]))


def _check_histograms(queries: int, bins: int, labels: Labels | None) -> None:
    what = f"histograms of {bins:,} distances for each of {queries:,} queries"
    check_memory(8 * queries * bins * (1 if labels is None else labels.grades), what)
