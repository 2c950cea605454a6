"""Relevance as other projects write it: <a, b> > 0 of label vectors, any label shared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash._labels import Labels, encode


class SharedLabels:
    """Which items of a database are relevant to a query: <query labels, item labels> > 0.

    Labels of zeros and ones are compared as classes or bits. For others, and where NumPy's inner
    product of small integers would wrap, it is the inner product itself.

    Args:
        database, queries: (N, C) and (Q, C).
    """

    def __init__(self, database: NDArray[Any], queries: NDArray[Any]) -> None:
        self._database, self._queries = database, queries
        self._labels: Labels | None = None
        if (
            _counts_fit(np.result_type(database, queries), queries.shape[1])
            and zeros_and_ones(database)
            and zeros_and_ones(queries)
        ):
            self._labels = encode(database.astype(np.bool_), queries.astype(np.bool_))

    def of(self, query: int, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `items` (k,) are relevant to a query, bool (k,)."""
        if self._labels is None:
            product = np.dot(self._queries[query], self._database.T)
            return np.asarray(product[items] > 0)
        relevant: NDArray[np.bool_] = self._labels.relevant(slice(query, query + 1), items[None])
        return relevant.reshape(-1)


def zeros_and_ones(labels: NDArray[Any]) -> bool:
    """Whether labels (N, C) hold nothing else."""
    if labels.dtype == np.bool_:
        return True
    step = max(1, (1 << 20) // max(1, labels.shape[1]))  # no mask as large as the labels
    parts = (labels[first : first + step] for first in range(0, len(labels), step))
    return all(bool(((part == 0) | (part == 1)).all()) for part in parts)


def _counts_fit(dtype: np.dtype[Any], labels: int) -> bool:
    return dtype.kind not in "iu" or labels <= int(np.iinfo(dtype).max)
