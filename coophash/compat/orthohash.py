"""The mAP of OrthoHash (functions/hashing.py), same name, arguments and result, faster.

    from coophash.compat.orthohash import calculate_mAP  # from functions.hashing import ...

The result is equal to the original's to the last digit on the same machine and version of torch.
What to call instead:

| original behaviour | right definition | `coophash.metrics` |
|---|---|---|
| ties in the order of `torch.topk` | mean over tie orders | `ties="average"`, default |
| AP over the hits in the first R | over min(relevant, R) | `divisor="relevant"`, default |
| no hit in the first R counts 0 | that, or left out: say it | `empty="zero"` or `"skip"` |
| `sign(0) = 0`, half a bit from both | bit 1 for outputs >= 0 | `coophash.pack(outputs)` |
| R per data set, 59,000 for CIFAR-10 | any | `k=R`, None for all |
| zeros of `test_labels` become -1 | arguments stay as they are | all |

The original's R: imagenet100 1000; cifar10 59,000, its second protocol 50,000; nuswide and coco
5000. That it writes into `test_labels` changes its result only where the same tensor is given as
`db_labels`, which is the one case where this function differs; -1 is taken as 0 in `test_labels`,
so both may be called in turns. Other projects stand beside this one in
docs/metrics-of-other-projects.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coophash.codes import as_numpy
from coophash.compat._shared import SharedLabels, zeros_and_ones
from coophash.compat._signs import SignDistances
from coophash.errors import require

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["calculate_mAP"]

_BLOCK_CELLS = 1 << 22  # distances of a block of queries: 16 megabytes


def calculate_mAP(
    db_codes: Tensor,
    db_labels: Tensor,
    test_codes: Tensor,
    test_labels: Tensor,
    R: int,
    threshold: float = 0.0,
) -> float:
    """Mean average precision of the R nearest items, nearest by `torch.topk`: OrthoHash's mAP@R.

    Relevant is an item that shares a label with the query. The average precision of a query is the
    sum over its hits among the R nearest of the precision at their ranks, divided by how many hits
    these are; 0 without one.

    Args:
        db_codes, test_codes: outputs or codes, float32 or float64 tensors (N, L) and (Q, L), on any
            device; what counts is their sign.
        db_labels, test_labels: one-hot or multi-hot, tensors (N, C) and (Q, C).
        R: how many ranks count, 1 to N.
        threshold: outputs nearer to 0 than this have the sign 0, half a bit away from +1 and -1.

    Raises:
        ImportError: torch is not installed.
        TypeError, ValueError: an argument is not what is expected; the message names it.
    """
    torch = require("torch", "train", "calculate_mAP")
    database = _signs(db_codes, "db_codes", threshold)
    queries = _signs(test_codes, "test_codes", threshold)
    theirs = _labels(as_numpy(db_labels, "db_labels")[0], "db_labels", len(database))
    asked = as_numpy(test_labels, "test_labels")[0]
    ours = _labels(np.where(asked == -1, 0, asked), "test_labels", len(queries))
    for one, other, a, b in (
        ("db_codes", "test_codes", database, queries),
        ("db_labels", "test_labels", theirs, ours),
    ):
        if a.shape[1] != b.shape[1]:
            raise ValueError(f"{one} and {other} must be equally wide, got {a.shape} and {b.shape}")
    if isinstance(R, bool) or not isinstance(R, int | np.integer):
        raise TypeError(f"R must be a whole number, got {R!r}")
    if not 1 <= R <= len(database):
        raise ValueError(f"R must be 1 to {len(database)}, the items in the database, got {R}")

    distances = SignDistances(queries, database)
    relevance = SharedLabels(theirs, ours)
    ranks = np.arange(1, R + 1)
    values = np.zeros(len(queries))
    groups = distances.groups()  # equal codes are ranked once
    step = max(1, _BLOCK_CELLS // len(database))
    for first in range(0, len(groups), step):
        block = groups[first : first + step]
        rows = torch.from_numpy(distances.block([group[0] for group in block]))
        # The original's selection on the original's values: hence its order of ties.
        nearest = torch.topk(rows, int(R), dim=1, largest=False)[1].numpy()
        for group, items in zip(block, nearest, strict=True):
            for query in group:
                hits = relevance.of(query, items)
                found = np.cumsum(hits)
                if found[-1]:
                    values[query] = np.sum(found / ranks * hits) / found[-1]
    return np.mean(values)  # type: ignore[return-value]


def _signs(codes: Any, name: str, threshold: float) -> NDArray[Any]:
    array, _ = as_numpy(codes, name)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}: {name}.float()")
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be outputs (N, L), at least one, got {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"{name} must not be NaN: look for it in the model that made them")
    signs: NDArray[Any] = np.sign(array)
    if threshold != 0:
        signs[np.abs(array) < threshold] = 0
    return signs


def _labels(labels: NDArray[Any], name: str, rows: int) -> NDArray[np.bool_]:
    if labels.ndim != 2 or len(labels) != rows or not zeros_and_ones(labels):
        raise ValueError(
            f"{name} must be one-hot or multi-hot, zeros and ones ({rows}, C), got "
            f"{labels.dtype} {labels.shape}"
        )
    return labels.astype(np.bool_)
