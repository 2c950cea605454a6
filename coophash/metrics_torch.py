"""Retrieval metrics of binary codes as torchmetrics classes.

torchmetrics' own retrieval metrics take one score for every pair of query and item and have no
rule for ties, or an implicit one. Here the states are packed codes and labels, a few bytes for each
query and item, and the values are those of `coophash.metrics`:

    metric = HammingRetrieval(("map@5000", "precision@r=2"), database_codes, database_labels)
    for images, labels in loader:
        metric.update(model.encode(images), labels)
    metric.compute()  # {"map@5000": tensor(...), "precision@r=2": tensor(...)}

`metric(codes, labels)` gives the values of that batch, `MetricCollection`, `MetricTracker`, `reset`
and synchronisation between processes work as with any metric: each process sees its own queries
and, if it updates the database in parts, its own part.

Needs torchmetrics: pip install "coophash[torchmetrics]". Importing this module without it raises
ImportError saying so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from coophash import metrics
from coophash._labels import check_labels
from coophash._metrics_named import DEFAULT, split_name
from coophash._options import Cost, Divisor, Empty, Gain, Graded, Ties, check_choice
from coophash.codes import as_numpy, check_codes
from coophash.errors import require

require("torchmetrics", "torchmetrics", "coophash.metrics_torch")
from torchmetrics import Metric  # noqa: E402
from torchmetrics.utilities import dim_zero_cat  # noqa: E402

__all__ = ["HammingMAP", "HammingNDCG", "HammingPrecision", "HammingRecall", "HammingRetrieval"]


class HammingRetrieval(Metric):
    """Retrieval metrics by Hamming distance, tie-aware, over all queries seen since `reset`.

    Args:
        measures: name of one metric, or names of several, as `coophash.metrics.evaluate` takes
            them.
        database_codes: packed codes, uint8 (N, width), or None to give them by `update_database`.
        database_labels: classes (N,) or multi-hot (N, C), together with the codes.
        ties, empty, divisor, gain, relevance, cost: as for `coophash.metrics.evaluate`.
        kwargs: those of torchmetrics.Metric.

    Codes and labels given here stay through `reset` and are the same in every process; those of
    `update_database` do not and are gathered from all.

    Raises:
        TypeError, ValueError: as `coophash.metrics` raises them.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    query_codes: list[torch.Tensor]
    query_labels: list[torch.Tensor]
    database_codes: list[torch.Tensor]
    database_labels: list[torch.Tensor]

    def __init__(
        self,
        measures: str | Sequence[str] = DEFAULT,
        database_codes: Any = None,
        database_labels: Any = None,
        *,
        ties: Ties = "average",
        empty: Empty = "zero",
        divisor: Divisor = "relevant",
        gain: Gain = "exponential",
        relevance: Graded = "graded",
        cost: Cost = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.measures = (measures,) if isinstance(measures, str) else tuple(measures)
        self.single = isinstance(measures, str)
        for name in self.measures:
            split_name(name)
        for option, value, choices in (
            ("ties", ties, Ties), ("empty", empty, Empty), ("divisor", divisor, Divisor),
            ("gain", gain, Gain), ("relevance", relevance, Graded), ("cost", cost, Cost),
        ):  # fmt: skip
            check_choice(option, value, choices)
        self.options = {
            "ties": ties, "empty": empty, "divisor": divisor,
            "gain": gain, "relevance": relevance, "cost": cost,
        }  # fmt: skip
        if (database_codes is None) != (database_labels is None):
            raise TypeError("database_codes and database_labels must be given together or not")
        self._fixed: tuple[torch.Tensor, torch.Tensor] | None = None
        if database_codes is not None:
            self._fixed = self._rows("database", database_codes, database_labels)
        for state in ("query_codes", "query_labels", "database_codes", "database_labels"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, query_codes: Any, query_labels: Any) -> None:
        """Add queries.

        Args:
            query_codes: packed codes, uint8 (B, width).
            query_labels: classes (B,) or multi-hot (B, C).
        """
        self._append("query", query_codes, query_labels)

    def update_database(self, database_codes: Any, database_labels: Any) -> None:
        """Add items to a database that was not given at construction; arguments as there.

        Raises:
            RuntimeError: it was given at construction.
        """
        if self._fixed is not None:
            raise RuntimeError(
                "the database was given at construction: leave it out there to add it in parts"
            )
        self._append("database", database_codes, database_labels)
        self._computed = None  # the values change though no query came

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`update`, and the values of these queries alone.

        Raises:
            RuntimeError: the database comes in parts, so there are no values before the last.
        """
        if self._fixed is None:
            raise RuntimeError(
                "values for each batch need a database given at construction; call update for the "
                "batches and compute once"
            )
        return super().forward(*args, **kwargs)

    def compute(self) -> torch.Tensor | dict[str, torch.Tensor]:
        """The value of the one metric, a tensor (); or of each by its name.

        Raises:
            ValueError: there are no queries or no database yet.
        """
        if len(self.query_codes) == 0:  # a tensor once it is gathered
            raise ValueError("there are no queries yet: call update(query_codes, query_labels)")
        if self._fixed is not None:
            database, labels = self._fixed
        elif len(self.database_codes) > 0:
            database, labels = (
                dim_zero_cat(self.database_codes), dim_zero_cat(self.database_labels),
            )  # fmt: skip
        else:
            raise ValueError(
                "there is no database yet: give it at construction, or call "
                "update_database(database_codes, database_labels)"
            )
        found = metrics.evaluate(
            dim_zero_cat(self.query_codes), database,
            dim_zero_cat(self.query_labels), labels,
            self.measures, **self.options,  # type: ignore[call-overload]
        )  # fmt: skip
        values = {name: torch.tensor(value, device=self.device) for name, value in found.items()}
        return values[self.measures[0]] if self.single else values

    def _append(self, side: str, codes: Any, labels: Any) -> None:
        rows, classes = self._rows(side, codes, labels)
        for part, new in (("codes", rows), ("labels", classes)):
            parts = getattr(self, f"{side}_{part}")
            if parts and (parts[0].shape[1:], parts[0].dtype) != (new.shape[1:], new.dtype):
                raise ValueError(
                    f"{side}_{part} must be like those before, {_describe(parts[0])}, got "
                    f"{_describe(new)}"
                )
        getattr(self, f"{side}_codes").append(rows)
        getattr(self, f"{side}_labels").append(classes)

    def _rows(self, side: str, codes: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and labels, checked, as tensors of their own."""
        rows = check_codes(as_numpy(codes, f"{side}_codes")[0], f"{side}_codes")
        classes = check_labels(labels, f"{side}_labels", len(rows))
        return torch.tensor(rows, device=self.device), torch.tensor(classes, device=self.device)


class HammingMAP(HammingRetrieval):
    """Mean average precision at k, or of the whole ranking. Arguments as for HammingRetrieval."""

    def __init__(
        self, database_codes: Any = None, database_labels: Any = None, *, k: int | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(_named("map", k), database_codes, database_labels, **options)


class HammingPrecision(HammingRetrieval):
    """Precision at k. Arguments as for HammingRetrieval."""

    def __init__(
        self, database_codes: Any = None, database_labels: Any = None, *, k: int, **options: Any
    ) -> None:
        super().__init__(_named("precision", k), database_codes, database_labels, **options)


class HammingRecall(HammingRetrieval):
    """Recall at k. Arguments as for HammingRetrieval."""

    def __init__(
        self, database_codes: Any = None, database_labels: Any = None, *, k: int, **options: Any
    ) -> None:
        super().__init__(_named("recall", k), database_codes, database_labels, **options)


class HammingNDCG(HammingRetrieval):
    """Normalised discounted cumulative gain at k, or of the whole ranking.

    Arguments as for HammingRetrieval.
    """

    def __init__(
        self, database_codes: Any = None, database_labels: Any = None, *, k: int | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(_named("ndcg", k), database_codes, database_labels, **options)


def _named(kind: str, k: int | None) -> str:
    return kind if k is None else f"{kind}@{k}"


def _describe(rows: torch.Tensor) -> str:
    return (
        f"{str(rows.dtype).removeprefix('torch.')} (N{''.join(f', {n}' for n in rows.shape[1:])})"
    )
