"""The primitive under the metrics: distances of each query to a database, split by relevance.

A retrieval metric under Hamming distance needs no ranking: how many items, and how many relevant
ones, stand at each distance from 0 to `bits` says everything that does not depend on the order of
ties. The histograms come from `hamming_histogram`, once over the whole database and once over the
items relevant to each distinct label of the queries, so nothing of the size queries x database
is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.codes import as_numpy, check_codes
from coophash.search import hamming_distances, hamming_histogram, hamming_topk

# Cells of a block of histograms, and ranks of a block of rankings: some megabytes each.
_BLOCK_CELLS = 1 << 18
_BLOCK_RANKS = 1 << 19


@dataclass(frozen=True)
class Retrieval:
    """Checked inputs of a metric.

    Attributes:
        query_codes, database_codes: packed codes, uint8, (Q, width) and (N, width).
        query_labels, database_labels: int64, (Q, 1) and (N, 1), classes; or uint64, (Q, words) and
            (N, words), multi-hot labels packed 64 to a word.
        multi_hot: which of the two.
    """

    query_codes: NDArray[np.uint8]
    database_codes: NDArray[np.uint8]
    query_labels: NDArray[Any]
    database_labels: NDArray[Any]
    multi_hot: bool

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

    def histograms(
        self,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """For blocks of queries: (rows, total, relevant), int64, (B,) and twice (B, bits + 1).

        total[i, d] items stand at distance d from query rows[i], relevant[i, d] of them are
        relevant. Each query comes once, those of one label together.
        """
        _, group = np.unique(self.query_labels, axis=0, return_inverse=True)
        group = group.reshape(-1)  # NumPy 2.0 alone gives it another shape
        order = np.argsort(group, kind="stable")
        block = max(1, _BLOCK_CELLS // (self.bits + 1))
        for first in range(0, self.queries, block):
            rows = order[first : first + block]
            total = hamming_histogram(self.database_codes, self.query_codes[rows])
            relevant = np.zeros_like(total)
            starts = np.flatnonzero(np.diff(group[rows], prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                label = self.query_labels[rows[start]]
                mask = self._are_relevant(label, self.database_labels)
                queries = self.query_codes[rows[start:stop]]
                # Gathering the relevant items takes as long as some scans of the whole database.
                if len(queries) > 4:
                    part = hamming_histogram(self.database_codes[mask], queries)
                else:
                    part = hamming_histogram(self.database_codes, queries, allow=mask)
                relevant[start:stop] = part
            yield rows, total, relevant

    def rankings(self, k: int) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """For blocks of queries: (rows, relevant), bool, (B, k): the k nearest by (distance, id).

        Here an id is the place in the database; k <= items.
        """
        # For the few nearest of many, selection; else sort: 16-bit integers go stably by radix.
        select = k <= self.items // 64
        block = max(1, _BLOCK_RANKS // (k if select else self.items))
        for first in range(0, self.queries, block):
            rows = slice(first, min(first + block, self.queries))
            codes = self.query_codes[rows]
            if select:
                _, ids = hamming_topk(self.database_codes, codes, k)
            else:
                distances = hamming_distances(codes, self.database_codes).astype(np.uint16)
                ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
            labels = self.query_labels[rows, None]
            yield rows, self._are_relevant(labels, self.database_labels[ids])

    def _are_relevant(self, ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.bool_]:
        """Labels (..., words) against labels (..., words), broadcast, to bool (...)."""
        if not self.multi_hot:
            return np.asarray(ours[..., 0] == theirs[..., 0])
        shared = ours[..., 0] & theirs[..., 0]
        for word in range(1, ours.shape[-1]):  # some words at most: faster than a reduction
            shared |= ours[..., word] & theirs[..., word]
        return np.asarray(shared != 0)


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
    ours = _check_labels(query_labels, "query_labels", len(queries))
    theirs = _check_labels(database_labels, "database_labels", len(database))
    if ours.shape[1:] != theirs.shape[1:]:
        raise ValueError(
            "query_labels and database_labels must both be classes (N,) or multi-hot (N, C) with "
            f"the same C, got {ours.shape} and {theirs.shape}"
        )
    if ours.ndim == 1:
        return Retrieval(queries, database, ours[:, None], theirs[:, None], multi_hot=False)
    return Retrieval(queries, database, _pack_words(ours), _pack_words(theirs), multi_hot=True)


def _check_codes(value: Any, name: str) -> NDArray[np.uint8]:
    codes = check_codes(as_numpy(value, name)[0], name)
    if len(codes) == 0:
        raise ValueError(f"{name} must hold at least one code, got {codes.shape}")
    return codes


def _check_labels(value: Any, name: str, count: int) -> NDArray[Any]:
    """int64 (N,) classes, or bool (N, C) multi-hot."""
    labels, _ = as_numpy(value, name)
    expected = "classes, integers (N,), or multi-hot, zeros and ones (N, C)"
    if labels.ndim not in (1, 2) or (labels.ndim == 1 and labels.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be {expected}; got {labels.dtype} {labels.shape}")
    if len(labels) != count:
        raise ValueError(f"{name} must have one row per code, {count}, got {labels.shape}")
    if labels.ndim == 1:
        if int(labels.min()) < 0:
            raise ValueError(
                f"{name} must be classes >= 0, got {int(labels.min())}: for items that are "
                "relevant to nothing give multi-hot labels with a row of zeros"
            )
        return labels.astype(np.int64)
    if labels.shape[1] < 2:
        raise ValueError(
            f"{name} must be {expected}; got {labels.shape}, which could be either: for classes "
            "call labels.reshape(-1)"
        )
    if labels.dtype != np.bool_ and not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{name} of shape {labels.shape} must hold zeros and ones only")
    return labels.astype(np.bool_)


def _pack_words(labels: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Multi-hot labels (N, C) as bits of 64-bit words: one AND compares 64 classes."""
    packed = np.packbits(labels, axis=1)
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    return np.asfortranarray(padded.view(np.uint64))  # read by columns
