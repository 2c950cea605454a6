"""Labels of a database and of queries: checked, and in the form that the extension compares.

An item is relevant to a query if both have the same class, or, with several labels an item, if
they share one. Classes become small numbers, labels become bits of 16-bit words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.codes import as_numpy

_NOTHING = -1  # the class of a query that no item is relevant to
_WORD = 16
# Set bits of every 16-bit word.
_BITS_SET = np.unpackbits(
    np.arange(1 << _WORD, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1
).sum(axis=1, dtype=np.uint16)


@dataclass(frozen=True)
class Labels:
    """Which items of a database are relevant to which queries.

    Attributes:
        database: int32 (N,) classes; or uint16 (words, N), 16 labels to a word.
        queries: int32 (Q,) classes, -1 where nothing is relevant; or uint16 (Q, words).
        grades: 2 where only relevance counts; else one more than the labels that a query and an
            item can have in common.
    """

    database: NDArray[Any]
    queries: NDArray[Any]
    grades: int = 2

    @property
    def single(self) -> bool:
        """Whether an item has one class at most."""
        return self.queries.ndim == 1

    def of_queries(self, rows: slice) -> Labels:
        """The same for some of the queries."""
        return replace(self, queries=np.ascontiguousarray(self.queries[rows]))

    def relevant(self, query: slice, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `items` (B, k), a row for each query of the slice, are relevant: bool (B, k)."""
        ours = self.queries[query]
        if self.single:
            return np.asarray(self.database[items] == ours[:, None])
        shared = np.zeros(items.shape, np.uint16)
        for word, theirs in enumerate(self.database):
            shared |= theirs[items] & ours[:, word, None]
        return np.asarray(shared != 0)

    def shared(self, query: slice, items: NDArray[np.int64]) -> NDArray[np.uint16]:
        """How many labels `items` (B, k), a row for each query of the slice, share with it."""
        if self.single:
            return self.relevant(query, items).astype(np.uint16)
        count = np.zeros(items.shape, np.uint16)
        for word, theirs in enumerate(self.database):
            count += _BITS_SET[theirs[items] & self.queries[query, word, None]]
        return count

    def graded(self) -> Labels:
        """The same, the number of shared labels told apart."""
        if self.single or not self.queries.size:
            return self
        most = min(
            int(_BITS_SET[self.queries].sum(axis=1).max()),
            int(sum(_BITS_SET[word].astype(np.int64) for word in self.database).max(initial=0)),
        )
        return replace(self, grades=max(2, most + 1))

    def native(self) -> tuple[Any, Any, int]:
        """What coophash._C.histogram takes: (classes or None, labels or None, grades)."""
        both = self.database, self.queries
        return (both, None, 2) if self.single else (None, both, self.grades)


def check_relevance(relevance: Any, items: int, queries: int) -> Labels:
    """The argument `relevance` of `hamming_histogram`: (database_labels, query_labels)."""
    if isinstance(relevance, Labels):
        return relevance
    if not isinstance(relevance, tuple | list) or len(relevance) != 2:
        raise TypeError(
            "relevance must be (database_labels, query_labels), got "
            f"{type(relevance).__name__}"
            + (f" of {len(relevance)}" if isinstance(relevance, tuple | list) else "")
        )
    theirs = check_labels(relevance[0], "database_labels", items)
    return encode(theirs, check_labels(relevance[1], "query_labels", queries))


def check_labels(value: Any, name: str, count: int) -> NDArray[Any]:
    """int64 (N,) classes, or bool (N, C) multi-hot.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """
    labels, _ = as_numpy(value, name)
    expected = "classes, integers (N,), or multi-hot, zeros and ones (N, C)"
    if labels.ndim not in (1, 2) or (labels.ndim == 1 and labels.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be {expected}; got {labels.dtype} {labels.shape}")
    if len(labels) != count:
        raise ValueError(f"{name} must have one row per code, {count}, got {labels.shape}")
    if labels.ndim == 1:
        if count and int(labels.min()) < 0:
            raise ValueError(
                f"{name} must be classes >= 0, got {int(labels.min())}: for items that are "
                "relevant to nothing give multi-hot labels with a row of zeros"
            )
        if count and int(labels.max()) >= 1 << 63:
            raise ValueError(f"{name} must fit into int64, got {int(labels.max())}")
        return labels.astype(np.int64, copy=False)
    if labels.shape[1] < 2:
        raise ValueError(
            f"{name} must be {expected}; got {labels.shape}, which could be either: for classes "
            "call labels.reshape(-1)"
        )
    if labels.dtype != np.bool_ and not _zeros_and_ones(labels):
        raise ValueError(f"{name} of shape {labels.shape} must hold zeros and ones only")
    return labels.astype(np.bool_, copy=False)


def encode(database: NDArray[Any], queries: NDArray[Any]) -> Labels:
    """Checked labels of both, as `check_labels` gives them.

    Raises:
        ValueError: they are not of one kind.
    """
    if database.shape[1:] != queries.shape[1:]:
        raise ValueError(
            "query_labels and database_labels must both be classes (N,) or multi-hot (N, C) with "
            f"the same C, got {queries.shape} and {database.shape}"
        )
    if database.ndim == 1:
        return _by_class(database, queries)
    # Labels that only one side has make nothing relevant.
    used = queries.any(axis=0) & database.any(axis=0)
    if not used.all():
        database, queries = database[:, used], queries[:, used]
    if not used.any() or max(_most_labels(database), _most_labels(queries)) <= 1:
        return _one_hot(database, queries)
    return Labels(np.ascontiguousarray(_words(database).T), _words(queries))


def _by_class(database: NDArray[np.int64], queries: NDArray[np.int64]) -> Labels:
    """Number the classes of the queries; all others are one number more, which no query has."""
    known, ours = np.unique(queries, return_inverse=True)
    theirs = np.minimum(np.searchsorted(known, database), max(known.size - 1, 0))
    if known.size:
        theirs = np.where(known[theirs] == database, theirs, known.size)
    return Labels(theirs.astype(np.int32), ours.reshape(-1).astype(np.int32))


def _one_hot(database: NDArray[np.bool_], queries: NDArray[np.bool_]) -> Labels:
    """One label an item or none: the same as classes, and faster."""
    classes = queries.shape[1]
    sides = []
    for labels, none in ((database, classes), (queries, _NOTHING)):
        found = np.full(len(labels), none, np.int32)
        rows, columns = np.nonzero(labels)
        found[rows] = columns
        sides.append(found)
    return Labels(sides[0], sides[1])


def _most_labels(labels: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(labels, axis=1).max(initial=0))


def _zeros_and_ones(labels: NDArray[Any]) -> bool:
    step = max(1, (1 << 20) // labels.shape[1])  # so that no mask as large as the labels is made
    parts = (labels[i : i + step] for i in range(0, len(labels), step))
    return all(bool(((part == 0) | (part == 1)).all()) for part in parts)


def _words(labels: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Multi-hot labels (N, C) as bits of 16-bit words, (N, words)."""
    packed = np.packbits(labels, axis=1)
    padded = np.zeros((len(packed), -(-labels.shape[1] // _WORD) * 2), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint16)
