"""Hamming distances as other projects write them, (L - <q, r>) / 2 in floats, by packed codes.

For vectors of -1 and +1 the inner product is a whole number that floats hold exactly, so packed
codes give the same floats, digit for digit, in a fraction of the time. A zero, which `sign` makes
of an output that is exactly 0, is worth half a bit in that formula and cannot be packed: rows that
have one are computed by the formula itself. Anything else, such as real outputs, is all left to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.codes import MAX_BITS, pack
from coophash.search import hamming_distances

_CHUNK = 1 << 20


def inner_product_distances(a: NDArray[Any], b: NDArray[Any]) -> Any:
    """(L - <a, b>) / 2 of vectors of L entries: (..., L) and (M, L) give (..., M)."""
    return 0.5 * (b.shape[1] - np.dot(a, b.T))


class SignDistances:
    """Distances of queries to a database, equal to `inner_product_distances` of one query each.

    Args:
        queries, database: (Q, L) and (N, L), at least one row each.

    Attributes:
        whole: whether all entries are -1, 0 or +1 and no sum of them is rounded or wraps. Then
            `block` may run in several threads at once: the order of summing changes nothing.
    """

    def __init__(self, queries: NDArray[Any], database: NDArray[Any]) -> None:
        self._queries, self._database = queries, database
        self._dtype = inner_product_distances(queries[:1], database[:1]).dtype
        zeros = None
        if _sums_are_whole(np.result_type(queries, database), queries.shape[1]):
            zeros = _rows_with_zeros(queries), _rows_with_zeros(database)
        self.whole = zeros is not None and zeros[0] is not None and zeros[1] is not None
        if zeros is None or zeros[0] is None or zeros[1] is None:
            return
        self._packed = pack(queries > 0), pack(database > 0)
        self._zero_queries = np.isin(np.arange(len(queries)), zeros[0])
        self._zero_items = zeros[1]
        self._with_zeros = database[zeros[1]]

    def groups(self) -> list[list[int]]:
        """All queries, those together whose distances are the same. Trained codes repeat often."""
        if not self.whole:
            return [[row] for row in range(len(self._queries))]
        equal: dict[bytes, list[int]] = {}
        for row, query in enumerate(self._queries):
            equal.setdefault(query.tobytes(), []).append(row)
        return list(equal.values())

    def block(self, rows: list[int], threads: int | None = None) -> NDArray[Any]:
        """The distances of some queries, (B, N); `threads` as `hamming_distances` takes it."""
        if not self.whole:  # rows one by one and as they lie: their sums round as in the original
            each = [inner_product_distances(self._queries[row], self._database) for row in rows]
            return np.stack(each)
        queries = self._queries[rows]
        ours, theirs = self._packed
        found = hamming_distances(ours[rows], theirs, threads=threads)
        distances: NDArray[Any] = found.astype(self._dtype)
        if self._zero_items.size:
            distances[:, self._zero_items] = inner_product_distances(queries, self._with_zeros)
        has_zero = self._zero_queries[rows]
        if has_zero.any():
            distances[has_zero] = inner_product_distances(queries[has_zero], self._database)
        return distances


def _sums_are_whole(dtype: np.dtype[Any], length: int) -> bool:
    """Whether L - <q, r>, at most 2 L, is exact in that type for entries of -1, 0 and +1."""
    if not 1 <= length <= MAX_BITS:
        return False
    if dtype.kind == "i":
        return 2 * length <= int(np.iinfo(dtype).max)
    return dtype in (np.float32, np.float64)


def _rows_with_zeros(vectors: NDArray[Any]) -> NDArray[np.int64] | None:
    """The rows that hold a 0; None if an entry is none of -1, 0 and +1."""
    found = [np.empty(0, np.int64)]
    step = max(1, _CHUNK // vectors.shape[1])
    for first in range(0, len(vectors), step):
        part = vectors[first : first + step]
        sign = np.abs(part) == 1
        if sign.all():
            continue
        if not (sign | (part == 0)).all():
            return None
        found.append(first + np.flatnonzero(~sign.all(axis=1)))
    return np.concatenate(found)
