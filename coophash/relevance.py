"""The primitive under the metrics: distances of each query to a database, split by relevance.

A retrieval metric under Hamming distance needs no ranking: how many items, and how many relevant
ones, stand at each distance from 0 to `bits` says everything that does not depend on the order of
ties. The histogram is built tile by tile, so memory does not grow with queries x database.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pairs of (query, item) handled at a time: 2^18 distances stay in a core's second-level cache.
_TILE_PAIRS = 1 << 18
_TILE_ITEMS = 1 << 13


@dataclass(frozen=True)
class Retrieval:
    """Checked inputs of a metric.

    Attributes:
        query_codes, database_codes: packed codes, uint8, (Q, width) and (N, width).
        query_labels, database_labels: int64, (Q,) and (N,), classes; or uint64, (Q, words) and
            (N, words), multi-hot labels packed 64 to a word.
    """

    query_codes: NDArray[np.uint8]
    database_codes: NDArray[np.uint8]
    query_labels: NDArray[Any]
    database_labels: NDArray[Any]

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
        """For blocks of queries: (rows, total, relevant), both int64, (B, bits + 1).

        total[q, d] items stand at distance d from query q, relevant[q, d] of them are relevant.
        """
        bins = 2 * (self.bits + 1)
        # A block's histogram should not outgrow the tile that fills it.
        block = max(1, min(self.queries, _TILE_PAIRS // max(bins, min(self.items, _TILE_ITEMS))))
        tile = max(1, min(self.items, _TILE_PAIRS // block))
        for first in range(0, self.queries, block):
            rows = slice(first, min(first + block, self.queries))
            size = rows.stop - rows.start
            counts = np.zeros(size * bins, dtype=np.int64)
            base = (np.arange(size, dtype=np.int64) * bins)[:, None]
            for start in range(0, self.items, tile):
                columns = slice(start, min(start + tile, self.items))
                distances, relevant = self._tile(rows, columns)
                keys = base + 2 * distances.astype(np.int64)
                keys += relevant
                counts += np.bincount(keys.ravel(), minlength=counts.size)
            split = counts.reshape(size, self.bits + 1, 2)
            yield rows, split.sum(axis=2), np.ascontiguousarray(split[:, :, 1])

    def rankings(self, k: int) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """For blocks of queries: (rows, relevant), bool, (B, k): the k nearest by (distance, id).

        Here an id is the place in the database.
        """
        # NumPy sorts integers of up to 16 bits stably by radix.
        kind = np.uint8 if self.bits < 256 else np.uint16
        block = max(1, _TILE_PAIRS // self.items)
        for first in range(0, self.queries, block):
            rows = slice(first, min(first + block, self.queries))
            distances, relevant = self._tile(rows, slice(0, self.items))
            order = np.argsort(distances.astype(kind), axis=1, kind="stable")[:, :k]
            yield rows, np.take_along_axis(relevant, order, axis=1)

    def _tile(self, rows: slice, columns: slice) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Distances and relevance of some queries and some items, both (B, T)."""
        distances = distances_numpy(self.query_codes[rows], self.database_codes[columns])
        ours, theirs = self.query_labels[rows], self.database_labels[columns]
        if ours.ndim == 1:
            return distances, ours[:, None] == theirs[None, :]
        shared = ours[:, None, 0] & theirs[None, :, 0]
        for word in range(1, ours.shape[1]):
            shared |= ours[:, None, word] & theirs[None, :, word]
        return distances, shared != 0


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
    if ours.ndim == 2:
        ours, theirs = _pack_words(ours), _pack_words(theirs)
    return Retrieval(queries, database, ours, theirs)


def distances_numpy(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Hamming distances between packed codes, uint16, (N, M): the reference in NumPy alone."""
    left, right = _to_words(a), _to_words(b)
    out = np.zeros((len(a), len(b)), dtype=np.uint16)
    for word in range(left.shape[1]):
        out += _bit_count(left[:, None, word] ^ right[None, :, word])
    return out


def _to_words(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Packed bytes as 64-bit words, zero bytes appended."""
    count, width = codes.shape
    padded = np.zeros((count, -(-width // 8) * 8), dtype=np.uint8)
    padded[:, :width] = codes
    return padded.view(np.uint64)


if hasattr(np, "bitwise_count"):  # NumPy 2

    def _bit_count(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        return np.asarray(np.bitwise_count(words), dtype=np.uint8)

else:
    _BITS_OF_16 = (
        np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
        .sum(axis=1)
        .astype(np.uint8)
    )

    def _bit_count(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        quarters = _BITS_OF_16[np.ascontiguousarray(words).view(np.uint16)]
        return np.asarray(quarters.reshape(*words.shape, 4).sum(axis=-1), dtype=np.uint8)


def _pack_words(labels: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Multi-hot labels (N, C) as bits of 64-bit words: one AND compares 64 classes."""
    return _to_words(np.packbits(labels, axis=1))


def _as_numpy(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a torch tensor, on any device, with or without a gradient
        return np.asarray(value.detach().cpu().numpy())
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return np.asarray(value)


def _check_codes(value: Any, name: str) -> NDArray[np.uint8]:
    codes = _as_numpy(value)
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise TypeError(
            f"{name} must be packed codes, uint8 (N, ceil(bits / 8)), got {codes.dtype} "
            f"{codes.shape}: call coophash.pack(outputs) first"
        )
    if 0 in codes.shape:
        raise ValueError(f"{name} must hold at least one code of one byte, got {codes.shape}")
    if codes.shape[1] > 512:
        raise ValueError(f"{name} must have at most 4096 bits, got {8 * codes.shape[1]}")
    return np.ascontiguousarray(codes)


def _check_labels(value: Any, name: str, count: int) -> NDArray[Any]:
    """int64 (N,) classes, or bool (N, C) multi-hot."""
    labels = _as_numpy(value)
    expected = "classes, integers (N,), or multi-hot, zeros and ones (N, C)"
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be {expected}; got {labels.dtype} {labels.shape}")
    if len(labels) != count:
        raise ValueError(f"{name} must have one row per code, {count}, got {labels.shape}")
    if labels.ndim == 1:
        if labels.dtype.kind not in "iu":
            raise TypeError(f"{name} must be {expected}; got {labels.dtype} {labels.shape}")
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
