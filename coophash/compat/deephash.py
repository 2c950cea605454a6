"""The evaluation of DeepHash-pytorch (utils/tools.py), same names, arguments and results, faster.

    from coophash.compat.deephash import CalcTopMap, compute_result  # from utils.tools import ...

Results are equal to the original's to the last digit, so that figures that were printed with it
can be compared. What is left of its time is `numpy.argsort`, which decides them; that runs on all
cores, once for all queries of one code. The metrics of `coophash.metrics` need no sort.

The results depend on things that a metric should not depend on. What to call instead:

| original behaviour | right definition | `coophash.metrics` |
|---|---|---|
| ties in the order of `numpy.argsort` | mean over tie orders | `ties="average"`, default |
| `topk=-1` leaves out the last item | all ranks | `k=None`, default |
| AP over the hits in the first topk | over min(R, k), R relevant | `divisor="relevant"`, default |
| no hit in the first topk counts 0 | that, or left out: say it | `empty="zero"` or `"skip"` |
| `sign(0) = 0`, half a bit from both | bit 1 for outputs >= 0 | `coophash.pack(outputs)` |
| curves over ranks, splitting ties | curves over radii | `precision_recall_curve` |
| curves without queries without a hit | that, or as 0: say it | `empty="skip"` or `"zero"` |
| curve of one query: a single number | a curve | `precision_recall_curve` |

`mean_average_precision(..., ties="average", divisor="hits", k=topk)` is what `CalcTopMap` gives on
average over random orders of ties. How `argsort` orders ties differs between kinds of CPU and
versions of NumPy: results are equal to the original's on the same machine. Other projects stand
beside this one in docs/metrics-of-other-projects.md.

Codes are rows of -1 and +1 as `sign` makes them, labels rows of zeros and ones; NumPy arrays as in
the original, torch tensors or anything with DLPack. Where the original breaks off deep inside NumPy
or returns a number for arguments that do not fit together, an error names the argument.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coophash import _native
from coophash.codes import as_numpy
from coophash.compat._in_order import in_order
from coophash.compat._shared import SharedLabels
from coophash.compat._signs import SignDistances, inner_product_distances
from coophash.errors import require

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CalcHammingDist", "CalcTopMap", "CalcTopMapWithPR", "compute_result"]

# Distances of a block of queries: about a megabyte, which stays in cache while it is ranked.
_BLOCK_CELLS = (1 << 18) - 1


def CalcHammingDist(B1: Any, B2: Any) -> Any:
    """Hamming distances of sign vectors by inner product, (L - <b1, b2>) / 2.

    Args:
        B1: (N, L) or (L,), entries -1 and +1. A 0 is half a bit away from both.
        B2: (M, L).

    Returns:
        (N, M) or (M,), of the floating type of the codes, float64 for integers; of the kind and on
        the device of B1.

    Raises:
        TypeError, ValueError: they are not numbers of these shapes.
    """
    first, restore = as_numpy(B1, "B1")
    second, _ = as_numpy(B2, "B2")
    if first.ndim not in (1, 2) or second.ndim != 2 or first.shape[-1] != second.shape[1]:
        raise ValueError(
            f"B1 and B2 must be codes (N, L) and (M, L), got {first.shape} and {second.shape}"
        )
    return restore(inner_product_distances(first, second))


def CalcTopMap(rB: Any, qB: Any, retrievalL: Any, queryL: Any, topk: int | None) -> float:
    """Mean average precision of the first topk items: DeepHash-pytorch's mAP@topk.

    Relevant is an item that shares a label with the query. The average precision of a query with H
    hits among the first topk, at ranks r_1 < ... < r_H, is (1/H) sum_h h / r_h, and 0 for H = 0.

    Args:
        rB: codes of the database, (N, L) of -1 and +1.
        qB: codes of the queries, (Q, L).
        retrievalL: labels of the database, one-hot or multi-hot (N, C).
        queryL: labels of the queries, (Q, C).
        topk: how many ranks count, as the end of a slice of them: None is all, -1 all but the last.

    Raises:
        TypeError, ValueError: an argument is not what is expected; the message names it.
    """
    data = _Retrieval(rB, qB, retrievalL, queryL, topk)
    values = np.zeros(data.queries)
    for query, value, _ in data.rankings():
        values[query] = value
    return _mean(values)


def CalcTopMapWithPR(
    qB: Any, queryL: Any, rB: Any, retrievalL: Any, topk: int | None
) -> tuple[float, Any, Any]:
    """`CalcTopMap` together with mean precision and recall at each rank.

    Note the order of the arguments, which is not that of `CalcTopMap`.

    Args:
        qB, queryL: codes (Q, L) and labels (Q, C) of the queries.
        rB, retrievalL: codes (N, L) and labels (N, C) of the database.
        topk: as for `CalcTopMap`. Of the curves it only says whose they are: the mean is over the
            queries with a hit among the first topk.

    Returns:
        mAP: as `CalcTopMap` returns it.
        precision: float64 (N,), at rank 1 to N.
        recall: float64 (N,). Each query's recall is rounded to float32 before the mean is taken.

        As in the original, precision and recall are single numbers, the means over all ranks, where
        exactly one query has a hit, and NaN, with a RuntimeWarning, where none has.

    Raises:
        TypeError, ValueError: an argument is not what is expected; the message names it.
    """
    data = _Retrieval(rB, qB, retrievalL, queryL, topk)
    ranks = np.arange(1, data.items + 1)
    precision, recall = np.zeros((2, data.items))
    values = np.zeros(data.queries)
    counted = 0
    for query, value, packed in _by_query(data.rankings()):
        if value == 0:
            continue
        values[query] = value
        counted += 1
        hits = np.cumsum(np.unpackbits(packed, count=data.items), dtype=np.float32)
        last = hits / ranks, (hits / hits[-1]).astype(np.float64)
        precision += last[0]
        recall += last[1]
    if counted == 1:
        return _mean(values), np.mean(last[0]), np.mean(last[1])
    if counted == 0:
        warnings.warn(
            "no query has a hit among the first topk: precision and recall are NaN",
            RuntimeWarning,
            stacklevel=2,
        )
        precision, recall = np.full((2, data.items), np.nan)
        counted = 1
    return _mean(values), precision / counted, recall / counted


def compute_result(dataloader: Any, net: Any, device: Any) -> tuple[Tensor, Tensor]:
    """Codes and labels of everything that a loader yields.

    Args:
        dataloader: yields (images, labels, indices), tensors of a batch each.
        net: a torch module, on `device`; it is put into evaluation mode, and left there. No
            gradients are recorded.
        device: where to move the images.

    Returns:
        codes: (N, L) of -1, 0 and +1, the signs of the outputs, in their type, on the CPU.
        labels: (N, C), as the loader gives them.

    Raises:
        ImportError: torch or tqdm is not installed.
        TypeError, ValueError: the loader yields nothing or something else, or net returns no
            tensor.
    """
    torch = require("torch", "train", "compute_result")
    tqdm = require("tqdm", "train", "compute_result").tqdm
    outputs, labels = [], []
    net.eval()
    with torch.no_grad():
        for batch in tqdm(dataloader):
            if len(batch) != 3:
                raise ValueError(
                    f"dataloader must yield (images, labels, indices), got a batch of {len(batch)}"
                )
            images, classes, _ = batch
            output = net(images.to(device))
            if not isinstance(output, torch.Tensor):
                raise TypeError(
                    f"net must return a tensor of outputs (B, L), got {type(output).__name__}"
                )
            outputs.append(output.cpu())
            labels.append(classes)
    if not outputs:
        raise ValueError("dataloader must yield at least one batch, it yielded none")
    return torch.cat(outputs).sign(), torch.cat(labels)


class _Retrieval:
    """The checked arguments, and the rankings that they make."""

    def __init__(self, rB: Any, qB: Any, retrievalL: Any, queryL: Any, topk: int | None) -> None:
        given = {"rB": rB, "qB": qB, "retrievalL": retrievalL, "queryL": queryL}
        arrays = {name: as_numpy(value, name)[0] for name, value in given.items()}
        for name, array in arrays.items():
            if array.ndim != 2 or not len(array):
                what = "labels, one-hot or multi-hot (N, C)" if name[-1] == "L" else "codes (N, L)"
                raise ValueError(f"{name} must be {what}, at least one row, got {array.shape}")
        for one, other, axis, same in (
            ("rB", "qB", 1, "the same length of a code"),
            ("retrievalL", "queryL", 1, "the same number of classes"),
            ("rB", "retrievalL", 0, "one row for each item"),
            ("qB", "queryL", 0, "one row for each query"),
        ):
            if arrays[one].shape[axis] != arrays[other].shape[axis]:
                raise ValueError(
                    f"{one} and {other} must have {same}, got {arrays[one].shape} and "
                    f"{arrays[other].shape}"
                )
        try:
            end = None if topk is None else operator.index(topk)
        except TypeError:
            raise TypeError(f"topk must be a whole number or None, got {topk!r}") from None
        self.items, self.queries = len(arrays["rB"]), len(arrays["qB"])
        self._cut = len(range(self.items)[:end])
        self._distances = SignDistances(arrays["qB"], arrays["rB"])
        self._labels = SharedLabels(arrays["retrievalL"], arrays["queryL"])

    def rankings(self) -> Iterator[tuple[int, float, NDArray[np.bool_]]]:
        """(query, its AP or 0 without a hit, which items, nearest first, are relevant), each once.

        Queries come in an order in which equal codes are ranked once.
        """
        groups = self._distances.groups()
        step = max(1, _BLOCK_CELLS // self.items)
        blocks = [groups[first : first + step] for first in range(0, len(groups), step)]
        # Rounded sums depend on how the BLAS library divides them: one thread, as in the original.
        threads = _native.check_threads(None) if self._distances.whole else 1
        for ranked in in_order(self._rank, blocks, threads):
            yield from ranked

    def _rank(self, groups: list[list[int]]) -> list[tuple[int, float, NDArray[np.bool_]]]:
        ranked = []
        distances = self._distances.block([group[0] for group in groups], threads=1)
        for group, row in zip(groups, distances, strict=True):
            # The original's argsort on the original's values: hence its order of ties.
            order = np.argsort(row)
            for query in group:
                relevant = self._labels.of(query, order)
                ranked.append((query, _average_precision(relevant[: self._cut]), relevant))
        return ranked


def _average_precision(ranked: NDArray[np.bool_]) -> float:
    ranks = np.flatnonzero(ranked) + 1
    return float(np.mean(np.arange(1, ranks.size + 1) / ranks)) if ranks.size else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    """Summed from the first to the last, as in the original: another order rounds otherwise."""
    total: float = 0
    for value in values[values != 0]:
        total = total + value
    return total / len(values)


def _by_query(
    rankings: Iterator[tuple[int, float, NDArray[np.bool_]]],
) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """The same with relevance as packed bits, in order of the queries: so sums round alike."""
    waiting: dict[int, tuple[float, NDArray[np.uint8]]] = {}
    turn = 0
    for query, value, relevant in rankings:
        waiting[query] = value, np.packbits(relevant)
        while turn in waiting:
            yield turn, *waiting.pop(turn)
            turn += 1
