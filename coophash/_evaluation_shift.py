"""Out of distribution: classes that were not trained on, and another collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coophash._evaluation_retrieval import RetrievalScores, evaluate_codes, relative_loss
from coophash._options import check_integer
from coophash.data import ImageSet

if TYPE_CHECKING:
    from coophash.hasher import ImageHasher


@dataclass(frozen=True)
class UnseenScores:
    """Retrieval when some classes were not trained on: X@Y is queries of X in a database of Y.

    An item is relevant to a query if it is of the query's class. Items of the other classes that
    the protocol leaves in the database only distract.

    Attributes:
        unseen: the classes left out of training.
        seen_seen: queries of seen classes, database of seen classes alone.
        seen_all: queries of seen classes, the whole database.
        unseen_unseen: queries of unseen classes, database of unseen classes alone.
        unseen_all: queries of unseen classes, the whole database.
    """

    unseen: tuple[int, ...]
    seen_seen: RetrievalScores
    seen_all: RetrievalScores
    unseen_unseen: RetrievalScores
    unseen_all: RetrievalScores

    @property
    def loss(self) -> float:
        """Share of the mAP of seen@all that unseen@all lacks: the same database, other queries."""
        return relative_loss(self.seen_all, self.unseen_all)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: "seen@seen" and so on, the loss and the classes."""
        names = ("seen_seen", "seen_all", "unseen_unseen", "unseen_all")
        scores = {name.replace("_", "@"): getattr(self, name).as_dict() for name in names}
        return {"unseen": list(self.unseen), **scores, "loss": self.loss}


@dataclass(frozen=True)
class CollectionScores:
    """Codes learned on one collection, and another collection of the same classes.

    Attributes:
        home: queries and database of the collection that was learned.
        other_queries: queries of the other collection in the home database.
        other_database: home queries in a database of the other collection.
        other: queries and database of the other collection.
    """

    home: RetrievalScores
    other_queries: RetrievalScores
    other_database: RetrievalScores
    other: RetrievalScores

    @property
    def loss(self) -> float:
        """Mean share of the mAP at home that is lost with the other's queries or database."""
        parts = (self.other_queries, self.other_database)
        return sum(relative_loss(self.home, part) for part in parts) / len(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "loss": self.loss}


def choose_unseen(classes: int, count: int = 3, seed: int = 0) -> tuple[int, ...]:
    """Which classes are left out of training: `count` of them, drawn by the seed, ascending.

    Raises:
        ValueError: fewer than 1 class unseen or fewer than 2 seen.
    """
    check_integer("classes", classes, 3)
    check_integer("count", count, 1)
    if count > classes - 2:
        raise ValueError(f"count must leave at least 2 of {classes} classes to train on: {count}")
    drawn = np.random.RandomState(seed).permutation(classes)[:count]  # NEP 19 freezes its stream
    return tuple(sorted(int(label) for label in drawn))


def without_classes(images: ImageSet, unseen: Sequence[int]) -> ImageSet:
    """The images of the other classes, their labels numbered anew from 0: what to train on."""
    dropped = _check_unseen(unseen, images.classes)
    kept = np.setdiff1d(np.arange(images.classes), dropped)
    part = images.subset(~np.isin(images.labels, dropped))
    return replace(
        part,
        labels=np.searchsorted(kept, part.labels).astype(np.int64),
        class_names=tuple(images.class_names[label] for label in kept),
    )


def evaluate_unseen(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    unseen: Sequence[int],
    bits: int,
    radius: int = 2,
) -> UnseenScores:
    """Score codes of a model that was trained on `without_classes(train, unseen)`.

    Args:
        query_codes, database_codes: packed codes of every class, seen and unseen.
        query_labels, database_labels: their classes, (Q,) and (N,), numbered as in the whole set.
        unseen: the classes left out of training.
        bits, radius: as `evaluate_codes`.

    Raises:
        ValueError: no queries or no database of seen or of unseen classes, or not one label a
            code; else as `evaluate_codes`.
    """
    labels = [np.asarray(each) for each in (query_labels, database_labels)]
    if any(each.ndim != 1 or each.dtype.kind not in "iu" for each in labels):
        raise ValueError(
            "labels must be classes (N,), integers: with several labels an item would be seen and "
            "unseen at once"
        )
    for name, given, of in zip(
        ("query", "database"), (query_codes, database_codes), labels, strict=True
    ):
        if len(given) != len(of):
            raise ValueError(
                f"{name}_codes and {name}_labels must be of one length, got {len(given)} and "
                f"{len(of)}: give one class for each code"
            )
    dropped = _check_unseen(unseen, 1 + max(int(each.max(initial=0)) for each in labels))
    new = [np.isin(each, dropped) for each in labels]
    for name, mask in zip(("query", "database"), new, strict=True):
        if mask.all() or not mask.any():
            raise ValueError(f"{name}_labels must have seen and unseen classes ({list(dropped)})")

    def score(queries: NDArray[np.bool_], database: NDArray[np.bool_]) -> RetrievalScores:
        return evaluate_codes(
            query_codes[queries], database_codes[database], labels[0][queries],
            labels[1][database], bits=bits, radius=radius,
        )  # fmt: skip

    whole = np.ones_like(new[1])
    return UnseenScores(
        tuple(int(label) for label in dropped),
        score(~new[0], ~new[1]), score(~new[0], whole), score(*new), score(new[0], whole),
    )  # fmt: skip


def evaluate_collections(
    model: ImageHasher,
    queries: ImageSet,
    database: ImageSet,
    other_queries: ImageSet,
    other_database: ImageSet,
    *,
    radius: int = 2,
) -> CollectionScores:
    """Score a model on the collection that it learned and on another of the same classes.

    For instance MNIST (`read_mnist5k`) and UCI's digits (`read_uci_digits`). All four sets must be
    disjoint, and none of them trained on.

    Raises:
        ValueError: different class names, or images that the model does not take.
    """
    sets = (queries, database, other_queries, other_database)
    for each in sets[1:]:
        if each.class_names != queries.class_names:
            raise ValueError(
                f"all sets must have the same classes, got {queries!r} and {each!r}: label 0 of "
                "one must be label 0 of the other"
            )
    (q, d), (oq, od) = ([model.encode(each) for each in pair] for pair in (sets[:2], sets[2:]))

    def score(a: Any, b: Any, asked: ImageSet, searched: ImageSet) -> RetrievalScores:
        return evaluate_codes(
            a, b, asked.labels, searched.labels, bits=model.config.bits, radius=radius
        )

    return CollectionScores(
        score(q, d, queries, database), score(oq, d, other_queries, database),
        score(q, od, queries, other_database), score(oq, od, other_queries, other_database),
    )  # fmt: skip


def _check_unseen(unseen: Sequence[int], classes: int) -> NDArray[np.int64]:
    """The unseen classes, ascending."""
    found = np.unique(np.asarray(unseen))
    if not found.size or found.dtype.kind not in "iu" or found[0] < 0 or found[-1] >= classes:
        raise ValueError(
            f"unseen must be classes from 0 to {classes - 1}, at least one, got {list(unseen)}"
        )
    return found.astype(np.int64)
