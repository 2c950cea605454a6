"""`Split`, and the ways to make one: drawn from labels, or fixed by list files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coophash.data.image_list import ImageList
from coophash.data.split import split_indices, split_per_class

Rule = Literal["per-class", "stratified", "random", "lists"]
Order = Literal["drawn", "stored", "class", "shuffled"]
Indices = NDArray[np.int64]
PARTS = ("query", "train", "validation", "database")


@dataclass(frozen=True, repr=False, eq=False)
class Split:
    """Which items of a set are queries, training, validation and database.

    Attributes:
        query, train, validation, database: int64 indices into the set.
        labels: those of the whole set, (N,) or (N, C).
        items: for a split by lists, the whole set: what the indices point to.
        hash: 16 hexadecimal digits of the SHA-256 of the indices of every part in their order, the
            labels, and the paths where there are any.
    """

    query: Indices
    train: Indices
    validation: Indices
    database: Indices
    labels: NDArray[Any]
    items: ImageList | None = None
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for name in PARTS:
            indices = getattr(self, name)
            digest.update(f"{name} {len(indices)}\n".encode())
            digest.update(indices.astype("<i8").tobytes())
        digest.update(f"labels {self.labels.shape}\n".encode())
        several = self.labels.ndim == 2
        bits = np.packbits(self.labels != 0, axis=1) if several else self.labels.astype("<i8")
        digest.update(bits.tobytes())
        for path in self.items.paths if self.items is not None else ():
            digest.update(path.encode() + b"\n")
        object.__setattr__(self, "hash", digest.hexdigest()[:16])

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, name)):,} {name}" for name in PARTS)
        return f"Split({counts}; hash {self.hash})"


def draw(
    rule: Rule, labels: NDArray[Any], query: int, train: int, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Queries, training items and the rest; disjoint, together all items.

    Raises:
        ValueError: there are too few items, of a class or in all.
    """
    sizes: dict[str, int | None] = {"query": query, "train": train, "rest": None}
    if rule == "per-class":
        parts = split_per_class(labels, sizes, seed)
    elif rule == "stratified":
        if query + train == len(labels):
            sizes["rest"] = 0
        parts = split_indices(labels, sizes, seed)
    else:
        if query + train > len(labels):
            raise ValueError(f"{query + train:,} items are asked for, there are {len(labels):,}")
        order = np.random.RandomState(seed).permutation(len(labels)).astype(np.int64)
        return order[:query], order[query : query + train], order[query + train :]
    return parts["query"], parts["train"], parts["rest"]


def hold_back(
    rule: Rule, train: Indices, labels: NDArray[Any], validation: int, seed: int
) -> tuple[Indices, Indices]:
    """The training items parted in training and validation, both in the order they have.

    Args:
        validation: how many, of each class under "per-class", else in all.
    """
    if validation == 0:
        return train, train[:0]
    if rule == "per-class":
        sizes = {"validation": validation, "train": None}
        kept = split_per_class(labels[train], sizes, seed)["validation"]
    elif rule == "stratified":
        rest = None if validation < len(train) else 0
        sizes = {"validation": validation, "train": rest}
        kept = split_indices(labels[train], sizes, seed)["validation"]
    else:
        # A stream of its own: the one of `seed` has drawn the training items.
        kept = np.random.RandomState([seed, 1]).permutation(len(train))[:validation]
    held = np.zeros(len(train), dtype=bool)
    held[kept] = True
    return train[~held], train[held]


def ordered(database: Indices, order: Order, labels: NDArray[Any], seed: int) -> Indices:
    """The database in one of the orders that `Protocol.database_order` names."""
    if order == "stored":
        return np.sort(database)
    if order == "class":
        return database[np.argsort(labels[database], kind="stable")]
    if order == "shuffled":
        return database[np.random.RandomState([seed, 2]).permutation(len(database))]
    return database


def pool(lists: Mapping[str, ImageList], name: str) -> tuple[ImageList, Indices, Indices, Indices]:
    """All images that lists name, once each, and where query, train and database are in it.

    The database comes first, in the order of its list, then what only the other lists name.

    Raises:
        ValueError: a path is twice in one list, is query and something else too, or has other
            labels in another list; the lists differ in their number of classes.
    """
    place: dict[str, int] = {}
    rows: dict[str, Indices] = {}
    kept = []
    for part in ("database", "train", "query"):
        listed = lists[part]
        before = len(place)
        rows[part] = np.array([place.setdefault(p, len(place)) for p in listed.paths], np.int64)
        values, first = np.unique(rows[part], return_index=True)
        if len(values) < len(listed):
            twice = np.setdiff1d(np.arange(len(listed)), first)
            raise ValueError(
                f"{listed.name} lists {len(twice):,} images twice, first "
                f"{listed.paths[int(twice[0])]!r}"
            )
        new = np.flatnonzero(rows[part] >= before)
        if part == "query" and len(new) < len(listed):
            shared = int(np.flatnonzero(rows[part] < before)[0])
            raise ValueError(
                f"{len(listed) - len(new):,} of the {len(listed):,} queries are in the database or "
                f"training list too, first {listed.paths[shared]!r}: they would find themselves"
            )
        kept.append(listed.subset(new))
    if len({each.labels.shape[1:] for each in kept}) > 1:
        raise ValueError("the lists differ in their number of classes")
    labels = np.concatenate([each.labels for each in kept])
    for part, listed in lists.items():
        if part in rows and not np.array_equal(labels[rows[part]], listed.labels):
            raise ValueError(f"an image of {listed.name} has other labels in another list")
    paths = tuple(path for each in kept for path in each.paths)
    return ImageList(paths, labels, name), rows["query"], rows["train"], rows["database"]
