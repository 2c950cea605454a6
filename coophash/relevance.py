"""The primitive under the metrics: distances of each query to a database, split by relevance.

A retrieval metric under Hamming distance needs no ranking: how many items, and how many relevant
ones, stand at each distance from 0 to `bits` says everything that does not depend on the order of
ties. The histograms come from `hamming_histogram` in one pass over the database, so nothing of the
size queries x database is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash._labels import Labels, check_labels, encode
from coophash.codes import as_numpy, check_codes
from coophash.search import hamming_histogram, hamming_topk

# Cells of a block of histograms, and ranks of a block of rankings: some megabytes each.
_BLOCK_CELLS = 1 << 18
_BLOCK_RANKS = 1 << 19


@dataclass(frozen=True)
class Retrieval:
    """Checked inputs of a metric.

    Attributes:
        query_codes, database_codes: packed codes, uint8, (Q, width) and (N, width).
        labels: those of both.
    """

    query_codes: NDArray[np.uint8]
    database_codes: NDArray[np.uint8]
    labels: Labels

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

    def histograms(self) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        """For blocks of queries: (rows, total, relevant), a slice and twice int64 (B, bits + 1).

        total[i, d] items stand at distance d from query rows.start + i, relevant[i, d] of them are
        relevant.
        """
        block = max(1, _BLOCK_CELLS // (self.bits + 1))
        for first in range(0, self.queries, block):
            rows = slice(first, min(first + block, self.queries))
            total, relevant = hamming_histogram(
                self.database_codes,
                self.query_codes[rows],
                relevance=self.labels.of_queries(rows),
            )
            yield rows, total, relevant

    def rankings(self, k: int) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """For blocks of queries: (rows, relevant), bool, (B, k): the k nearest by (distance, id).

        Here an id is the place in the database; k <= items.
        """
        block = max(1, _BLOCK_RANKS // k)
        for first in range(0, self.queries, block):
            rows = slice(first, min(first + block, self.queries))
            _, ids = hamming_topk(self.database_codes, self.query_codes[rows], k)
            yield rows, self.labels.relevant(rows, ids)


def check_retrieval(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any
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
    return Retrieval(queries, database, encode(theirs, ours))


def _check_codes(value: Any, name: str) -> NDArray[np.uint8]:
    codes = check_codes(as_numpy(value, name)[0], name)
    if len(codes) == 0:
        raise ValueError(f"{name} must hold at least one code, got {codes.shape}")
    return codes
