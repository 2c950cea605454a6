"""`Protocol`: a rule for splitting a data set and scoring codes of it, as data with a hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coophash import metrics
from coophash._labels import check_labels
from coophash._options import Empty, Ties
from coophash._splits import Order, Rule, Split, draw, hold_back, ordered, pool
from coophash.codes import as_numpy
from coophash.data.image_list import ImageList, read_image_lists
from coophash.data.known import KNOWN, known_set
from coophash.ties import Divisor

Database = Literal["rest", "train+rest", "train", "list"]

# Raised when the same fields would give another split or another figure than before.
_VERSION = 1
_SILENT = ("name", "source", "notes")  # fields that decide nothing


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A rule for splitting a data set and for scoring codes of it.

    Attributes:
        name: what it is called in records.
        dataset: a set of `coophash.data.known`.
        rule: how items are drawn: "per-class", so many of each class (the classes permuted one
            after the other); "stratified", so many in all, by class proportion; "random", so many
            in all; "lists", fixed by list files.
        query, train: how many, of each class under "per-class", else in all; None under "lists"
            where the published number is not known.
        validation: how many of the `train` items are kept back to choose a model by, counted as
            `train` is. Queries and database do not change, so figures stay comparable.
        database: "rest", all that is neither query nor train; "train+rest", all but the queries;
            "train"; "list", what the database list names.
        items: items of the whole set; any number if None.
        database_items: of the database; any number if None.
        seed: of everything that is drawn.
        database_order: "drawn", as the rule gives them (by class under "per-class", training
            items first); "stored", by index; "class"; "shuffled", seeded. Only the order of tied
            distances depends on it, so nothing under `ties="average"`.
        k: ranks that count; None for all.
        ties, empty, divisor: as `coophash.metrics.mean_average_precision` takes them.
        image_size: pixels of a side that the images are brought to.
        classes: how many.
        multi_label: whether items have several labels.
        source: where the rule comes from.
        notes: where ours differs, and what to know.

    Raises:
        ValueError: fields that contradict each other or are out of range.
    """

    name: str
    dataset: str
    rule: Rule
    query: int | None
    train: int | None
    validation: int = 0
    database: Database = "rest"
    items: int | None = None
    database_items: int | None = None
    seed: int = 0
    database_order: Order = "drawn"
    k: int | None = None
    ties: Ties = "average"
    empty: Empty = "zero"
    divisor: Divisor = "relevant"
    image_size: int = 224
    classes: int
    multi_label: bool = False
    source: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        choices = {
            "rule": Rule, "database": Database, "database_order": Order, "ties": Ties,
            "empty": Empty, "divisor": Divisor, "dataset": None,
        }  # fmt: skip
        for name, choice in choices.items():
            known = tuple(KNOWN) if choice is None else get_args(choice)
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        lists = self.rule == "lists"
        least = {"query": 1, "train": 0, "validation": 0, "items": 1, "database_items": 1,
                 "seed": 0, "k": 1, "image_size": 1, "classes": 1}  # fmt: skip
        optional = {"items", "database_items", "k"} | ({"query", "train"} if lists else set())
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")
        if lists != (self.database == "list"):
            raise ValueError('rule="lists" and database="list" belong together')
        if self.multi_label and self.rule in ("per-class", "stratified"):
            raise ValueError(f"rule {self.rule!r} needs one label an item: use 'random' or 'lists'")
        if self.multi_label and self.database_order == "class":
            raise ValueError("items of several labels have no order by class")
        if self.train is not None and self.validation > self.train:
            raise ValueError(
                f"validation items are taken from train: {self.validation} of {self.train}"
            )

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all that decides a result.

        Of canonical JSON: every field but `name`, `source` and `notes`, keys sorted.
        """
        fields = {name: x for name, x in asdict(self).items() if name not in _SILENT}
        text = json.dumps({"version": _VERSION, **fields}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def disjoint(self) -> bool | None:
        """Whether no training item is in the database; None where the lists decide.

        No query ever is, and none is a training item.
        """
        if self.rule == "lists":
            within = known_set(self.dataset).train_in_database
            return None if within is None else not within
        return self.database == "rest"

    @property
    def counts(self) -> dict[str, int | None]:
        """Items of each part; None where that depends on the data."""
        times = self.classes if self.rule == "per-class" else 1
        query, train = (None if n is None else n * times for n in (self.query, self.train))
        held = self.validation * times
        database = self.database_items
        if self.rule != "lists" and self.items is not None and query is not None:
            rest = self.items - query
            database = {"train": train, "train+rest": rest, "rest": rest - (train or 0)}[
                self.database
            ]
        return {
            "query": query, "train": None if train is None else train - held, "validation": held,
            "database": database,
        }  # fmt: skip

    def split(self, labels: ArrayLike) -> Split:
        """Draw the split of a set with these labels, those of the whole set in its stored order.

        Args:
            labels: classes, integers (N,), or multi-hot (N, C) under the rule "random". Sets that
                come in a training and a test part: training part first, as
                `open_dataset(path, split="all")` reads them.

        Raises:
            ValueError: the number of items or the labels do not fit the protocol, or the split is
                fixed by lists.
        """
        if self.rule == "lists":
            raise ValueError(
                f"the split of {self.name} is fixed by list files: call split_lists(folder)"
            )
        values = self._check_labels(labels, "labels")
        if self.items is not None and len(values) != self.items:
            raise ValueError(
                f"{self.name} splits all {self.items:,} items of {known_set(self.dataset).title}, "
                f"got labels of {len(values):,}: give the labels of the whole set, or make a "
                "protocol of your own with dataclasses.replace(protocol, items=None)"
            )
        if values.ndim == 2 and self.rule != "random":
            raise ValueError(
                f"labels must be classes, integers (N,), under the rule {self.rule!r}, got "
                f"{values.dtype} {values.shape}"
            )
        assert self.query is not None and self.train is not None  # else the rule is "lists"
        query, train, rest = draw(self.rule, values, self.query, self.train, self.seed)
        database = {
            "rest": (rest,), "train": (train,), "train+rest": (train, rest)
        }[self.database]  # fmt: skip
        return self._finish(query, train, np.concatenate(database), values)

    def split_lists(self, lists: str | os.PathLike[str] | Mapping[str, ImageList]) -> Split:
        """The split that list files fix, over the set of all images that they name.

        Args:
            lists: the folder of `test.txt`, `train.txt` and `database.txt`; or the lists by part,
                "query", "train" and "database".

        Returns:
            Indices into `items`, which holds each path once: database first, in the order of the
            list, then what only the other lists name.

        Raises:
            FileNotFoundError: a list is missing.
            ValueError: a list is malformed, or has another number of images or classes than the
                protocol; a path is twice in one list, is both query and database or training, or
                has other labels in another list.
        """
        if self.rule != "lists":
            raise ValueError(f"the split of {self.name} is drawn: call split(labels)")
        parts = lists if isinstance(lists, Mapping) else read_image_lists(lists)
        if set(parts) != {"query", "train", "database"}:
            raise ValueError(f"lists must be of query, train and database, got {sorted(parts)}")
        expected = {"query": self.query, "train": self.train, "database": self.database_items}
        for part, count in expected.items():
            self._check_labels(parts[part].labels, f"labels of {parts[part].name}")
            if count not in (None, len(parts[part])):
                raise ValueError(
                    f"{self.name} has {count:,} {part} images, {parts[part].name} lists "
                    f"{len(parts[part]):,}"
                )
        items, query, train, database = pool(parts, self.name)
        return self._finish(query, train, database, items.labels, items)

    def evaluate(
        self,
        query_codes: Any,
        database_codes: Any,
        query_labels: Any,
        database_labels: Any,
        *,
        split: Split | None = None,
        bits: int | None = None,
        radius: int = 2,
    ) -> dict[str, Any]:
        """Score codes by the protocol's rules: a record for JSON.

        Args:
            query_codes, database_codes: packed codes, uint8, (Q, width) and (N, width), of the
                split's `query` and `database`, in their order.
            query_labels, database_labels: classes (Q,) and (N,), or multi-hot (Q, C) and (N, C).
            split: that the codes are of: its hash goes into the record.
            bits: bits per code; by default 8 x width.
            radius: of the precision within a Hamming radius.

        Returns:
            `map` under the protocol's k, tie, empty-query and divisor rules, `map_worst` and
            `map_best` over all orders of ties, `map_all` and `precision_at_k` where the protocol
            has a k, `precision_at_radius`; the rules, both hashes and the number of codes;
            `queries_without_relevant`.

        Raises:
            TypeError, ValueError: as `coophash.metrics` raises them; also where the number of
                codes or classes is not that of the protocol.
        """
        data = (query_codes, database_codes, query_labels, database_labels)
        given = {
            "query": (query_codes, query_labels),
            "database": (database_codes, database_labels),
        }
        for part, (codes, labels) in given.items():
            expected = self.counts[part] if split is None else len(getattr(split, part))
            if expected is not None and len(codes) != expected:
                raise ValueError(
                    f"{part}_codes must be the {expected:,} {part} codes of {self.name}, got "
                    f"{len(codes):,}"
                )
            values = self._check_labels(labels, f"{part}_labels")
            if split is not None and not np.array_equal(values, split.labels[getattr(split, part)]):
                raise ValueError(
                    f"{part}_labels are not those of split.{part}: codes and labels must be in the "
                    f"order of the split, labels[split.{part}]"
                )
        rules: dict[str, Any] = {"k": self.k, "divisor": self.divisor}
        precisions = metrics.average_precision(*data, ties=self.ties, **rules)
        scores = {"map": self._mean(precisions)}
        for ties in ("worst", "best"):
            scores[f"map_{ties}"] = metrics.mean_average_precision(
                *data, ties=ties, empty=self.empty, **rules
            )
        if self.k is not None:
            scores["map_all"] = metrics.mean_average_precision(
                *data, ties=self.ties, empty=self.empty
            )
            scores["precision_at_k"] = metrics.precision_at_k(*data, k=self.k, ties=self.ties)
        scores["precision_at_radius"] = metrics.precision_at_radius(*data, radius=radius)
        return {
            "protocol": self.name,
            "protocol_hash": self.hash,
            "split_hash": None if split is None else split.hash,
            "dataset": self.dataset,
            "queries": len(query_codes),
            "database": len(database_codes),
            "bits": 8 * int(query_codes.shape[1]) if bits is None else bits,
            "seed": self.seed,
            "database_order": self.database_order,
            "k": self.k,
            "ties": self.ties,
            "empty": self.empty,
            "divisor": self.divisor,
            "radius": radius,
            "queries_without_relevant": int(np.isnan(precisions).sum()),
            **scores,
        }

    def _finish(
        self,
        query: NDArray[np.int64],
        train: NDArray[np.int64],
        database: NDArray[np.int64],
        labels: NDArray[Any],
        items: ImageList | None = None,
    ) -> Split:
        kept, validation = hold_back(self.rule, train, labels, self.validation, self.seed)
        searched = ordered(database, self.database_order, labels, self.seed)
        return Split(query, kept, validation, searched, labels, items)

    def _check_labels(self, labels: Any, name: str) -> NDArray[Any]:
        """int64 (N,) classes or bool (N, C), within the protocol's classes."""
        values = as_numpy(labels, name)[0]
        values = check_labels(values, name, len(values) if values.ndim else 0)
        last = self.classes - 1
        if values.ndim == 2 and values.shape[1] != self.classes:
            raise ValueError(
                f"{name} must have {self.classes} columns for {self.name}, got {values.shape}"
            )
        if values.ndim == 1 and values.size and int(values.max()) > last:
            raise ValueError(
                f"{name} must be classes from 0 to {last} for {self.name}, got {int(values.max())}"
            )
        return values

    def _mean(self, values: NDArray[np.float64]) -> float:
        """Of the queries' average precisions, where NaN marks that nothing is relevant."""
        if self.empty == "zero":
            return float(np.nan_to_num(values).mean())
        if np.isnan(values).all():
            raise ValueError(
                "no query has a relevant item in the database: nothing is left to average under "
                'empty="skip"'
            )
        return float(np.nanmean(values))
