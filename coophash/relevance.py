"""The primitive under the metrics: distances of each query to a database, split by relevance.

A retrieval metric under Hamming distance needs no ranking: how many items, and how many relevant
ones, stand at each distance from 0 to `bits` says everything that does not depend on the order of
ties. The histograms come from `hamming_histogram` in one pass over the database, so nothing of the
size queries x database is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash._labels import Labels, check_labels, encode
from coophash._native import check_threads
from coophash.codes import as_numpy, check_codes
from coophash.search import hamming_histogram, hamming_topk

# Cells of a block of histograms, and ranks of a block of rankings: some megabytes each.
_BLOCK_CELLS = 1 << 18
_BLOCK_RANKS = 1 << 19
_LARGEST_TALLY = 1 << 16  # cells of one query's histogram that the extension counts at once


@dataclass(frozen=True)
class Retrieval:
    """Checked inputs of a metric.

    Attributes:
        query_codes, database_codes: packed codes, uint8, (Q, width) and (N, width).
        labels: those of both.
        exclude: int64 (Q,), the row of the database that does not count for a query, -1 for none;
            None where all rows count for all queries.
        threads: how many to use; None for all cores.
    """

    query_codes: NDArray[np.uint8]
    database_codes: NDArray[np.uint8]
    labels: Labels
    exclude: NDArray[np.int64] | None = None
    threads: int | None = None

    @property
    def queries(self) -> int:
        return len(self.query_codes)

    @property
    def items(self) -> int:
        return len(self.database_codes)

    @property
    def bits(self) -> int:
        """The largest distance possible: the spare bits of the last byte count too."""
        return 8 * int(self.query_codes.shape[1])

    def graded(self) -> Retrieval:
        """The same, relevance told apart by the number of shared labels.

        Raises:
            ValueError: codes and labels are too long to be counted together.
        """
        labels = self.labels.graded()
        if (self.bits + 1) * labels.grades > _LARGEST_TALLY:
            raise ValueError(
                f"{self.bits} bits with up to {labels.grades - 1} labels in common are more than "
                f"can be counted, {_LARGEST_TALLY} pairs of distance and number of labels: give "
                'relevance="binary"'
            )
        return replace(self, labels=labels)

    def histograms(self) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        """For blocks of queries: (rows, total, relevant), a slice and twice int64 (B, bits + 1).

        total[i, d] items stand at distance d from query rows.start + i, relevant[i, d] of them are
        relevant. After `graded()`, relevant is (B, bits + 1, grades - 1) and relevant[i, d, g - 1]
        of them share g labels.
        """
        block = max(1, _BLOCK_CELLS // ((self.bits + 1) * self.labels.grades))
        for first in range(0, self.queries, block):
            rows = slice(first, min(first + block, self.queries))
            yield rows, *self.histogram(rows)

    def histogram(self, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(total, relevant) of some queries, as `histograms` yields them."""
        total, relevant = hamming_histogram(
            self.database_codes,
            self.query_codes[rows],
            relevance=self.labels.of_queries(rows),
            threads=self.threads,
        )
        if self.exclude is not None:
            self._take_out(rows, total, relevant)
        return total, relevant

    def _take_out(self, rows: slice, total: NDArray[np.int64], relevant: NDArray[np.int64]) -> None:
        """Remove the excluded row of each query from its histograms."""
        assert self.exclude is not None
        own = self.exclude[rows]
        which = np.flatnonzero(own >= 0)
        theirs = self.database_codes[own[which]]
        differing = np.unpackbits(self.query_codes[rows][which] ^ theirs, axis=1)
        distances = differing.sum(axis=1, dtype=np.int64)
        total[which, distances] -= 1
        grades = self.labels.shared(rows, np.maximum(own, 0)[:, None])[which, 0].astype(np.int64)
        hits = grades > 0
        if relevant.ndim == 2:
            relevant[which[hits], distances[hits]] -= 1
        else:
            relevant[which[hits], distances[hits], grades[hits] - 1] -= 1

    def rankings(self, k: int) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
        """For blocks of queries: (rows, shared), uint16 (B, k): the k nearest by (distance, id).

        shared[i, j] says whether the item at rank j is relevant to the query, 1 or 0; after
        `graded()` how many labels they share.
        Here an id is the place in the database; k <= items. An excluded row is passed over; where
        too few are left for k ranks, the last one is filled with 0.
        """
        wanted = k if self.exclude is None else min(k + 1, self.items)
        block = max(1, _BLOCK_RANKS // wanted)
        for first in range(0, self.queries, block):
            rows = slice(first, min(first + block, self.queries))
            _, ids = hamming_topk(
                self.database_codes, self.query_codes[rows], wanted, threads=self.threads
            )
            count = self.labels.shared if self.labels.grades > 2 else self.labels.relevant
            shared = count(rows, ids).astype(np.uint16)
            if self.exclude is not None:
                shared = _pass_over(ids == self.exclude[rows, None], shared)
            yield rows, shared[:, :k]


def _pass_over(excluded: NDArray[np.bool_], values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Close the gap that the excluded place of a row leaves, and put 0 at its end."""
    columns = np.arange(values.shape[1])
    found = excluded.any(axis=1)
    gap = np.where(found, excluded.argmax(axis=1), len(columns))
    shifted = columns + (columns >= gap[:, None])
    moved = np.take_along_axis(values, np.minimum(shifted, len(columns) - 1), axis=1)
    moved[found, -1] = 0
    return moved


def check_retrieval(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    exclude: Any = None,
    threads: int | None = None,
) -> Retrieval:
    """Check what every metric takes; NumPy arrays, torch tensors and anything with DLPack.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """
    queries = _check_codes(query_codes, "query_codes")
    database = _check_codes(database_codes, "database_codes")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"query_codes and database_codes must have the same width, got {queries.shape[1]} and "
            f"{database.shape[1]} bytes per code"
        )
    ours = check_labels(query_labels, "query_labels", len(queries))
    theirs = check_labels(database_labels, "database_labels", len(database))
    rows = None if exclude is None else _check_exclude(exclude, len(queries), len(database))
    if threads is not None:
        check_threads(threads)
    return Retrieval(queries, database, encode(theirs, ours), rows, threads)


def _check_codes(value: Any, name: str) -> NDArray[np.uint8]:
    codes = check_codes(as_numpy(value, name)[0], name)
    if len(codes) == 0:
        raise ValueError(f"{name} must hold at least one code, got {codes.shape}")
    return codes


def _check_exclude(value: Any, queries: int, items: int) -> NDArray[np.int64]:
    expected = f"for each of {queries} queries its row of the database, 0 to {items - 1}, or -1"
    rows, _ = as_numpy(value, "exclude")
    if rows.dtype.kind not in "iu" or rows.shape != (queries,):
        raise TypeError(f"exclude must be {expected}; got {rows.dtype} {rows.shape}")
    wrong = (rows < -1) | (rows >= items)
    if wrong.any():
        raise ValueError(f"exclude must be {expected}; got {int(rows[wrong][0])}")
    return rows.astype(np.int64, copy=False)
