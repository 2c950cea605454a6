"""Seeded, disjoint splits: in proportion to the classes, or a number of items of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def split_indices(
    labels: ArrayLike,
    sizes: Mapping[str, int | None],
    seed: int,
    class_names: Sequence[str] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Split labelled items into disjoint parts that each have the class shares of the whole.

    Every part gets at least one item of every class, then items of each class in proportion to
    what is left of it, rounded so that the part has exactly the size asked for. Items of a part
    come in random order, not by class: with a database in class order, tied distances would be
    broken by class.

    Args:
        labels: integers, (N,).
        sizes: how many items each part gets, by name; None, for one part at most, means all that
            are left. The parts need not use up all items.
        seed: the same seed gives the same split, on every machine and NumPy version.
        class_names: for the messages.

    Returns:
        For each name its indices, int64, in random order.

    Raises:
        ValueError: the sizes do not fit the number of items, a part is smaller than the number of
            classes, or a class has fewer items than there are parts.

    Example:
        >>> parts = split_indices([0, 0, 0, 1, 1, 1], {"query": 2, "database": None}, seed=0)
        >>> {name: len(part) for name, part in parts.items()}
        {'query': 2, 'database': 4}
    """
    values = np.asarray(labels)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers (N,), N > 0, got {values.dtype} {values.shape}: "
            "multi-hot labels cannot be stratified"
        )
    present, of_class, counts = np.unique(values, return_inverse=True, return_counts=True)
    wanted = _resolve_sizes(sizes, values.size)
    parts = [name for name, size in sizes.items() if size is None or size > 0]
    for label, count in zip(present.tolist(), counts.tolist(), strict=True):
        if count < len(parts):
            named = class_names is not None and 0 <= label < len(class_names)
            title = f'class {label} ("{class_names[label]}")' if named else f"class {label}"  # type: ignore[index]
            raise ValueError(
                f"{title} has {count} {'image' if count == 1 else 'images'}; needs at least "
                f"{len(parts)}, one for each of {', '.join(parts)}: add images of this class or "
                "leave the class out"
            )

    for name in parts:
        if wanted[name] < len(present):
            raise ValueError(
                f"part {name!r} gets {wanted[name]} of {values.size} items for {len(present)} "
                f"classes; needs at least {len(present)}, one of each class"
            )

    # RandomState, not Generator: NEP 19 freezes its stream, so a published seed keeps its meaning.
    random = np.random.RandomState(seed)
    order = random.permutation(values.size)
    queues = [order[of_class[order] == c] for c in range(len(present))]
    left = counts.astype(np.int64)
    result = {name: np.empty(0, dtype=np.int64) for name in wanted}
    for place, name in enumerate(parts):
        # One item of each class is kept back for every later part.
        spare = left - (len(parts) - place - 1) - 1
        take = 1 + _proportional(wanted[name] - len(present), spare)
        chosen = np.concatenate(
            [
                queue[n - m : n - m + t]
                for queue, n, m, t in zip(queues, counts, left, take, strict=True)
            ]
        )
        result[name] = random.permutation(chosen).astype(np.int64)
        left -= take
    return result


def split_per_class(
    labels: ArrayLike, sizes: Mapping[str, int | None], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Split labelled items into disjoint parts with the same number of items of every class.

    The rule of DeepHash-pytorch's CIFAR-10 loader: class after class, in the order of their
    numbers, the items are permuted and the parts take theirs one after the other. After
    `numpy.random.seed(seed)`, which it does not call, that loader draws exactly this split.

    Args:
        labels: integers, (N,).
        sizes: how many items of each class every part gets, by name; None, for the last part at
            most, means all that are left, of however many each class has.
        seed: the same seed gives the same split, on every machine and NumPy version.

    Returns:
        For each name its indices, int64, by class, at random within each class.

    Raises:
        ValueError: a class has too few items, or a wrong argument.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers (N,), N > 0, got {values.dtype} {values.shape}")
    for place, (name, size) in enumerate(sizes.items()):
        last = place == len(sizes) - 1
        if not (size is None and last) and (
            isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0
        ):
            raise ValueError(f"sizes[{name!r}] must be an integer >= 0, got {size!r}")
    needed = sum(size or 0 for size in sizes.values())
    random = np.random.RandomState(seed)  # its stream is frozen (NEP 19)
    pieces: dict[str, list[NDArray[np.int64]]] = {name: [] for name in sizes}
    for label in np.unique(values):
        items = np.flatnonzero(values == label)
        if len(items) < needed:
            raise ValueError(
                f"class {label} has {len(items):,} items, {needed:,} are asked for: {dict(sizes)}"
            )
        items = items[random.permutation(len(items))]
        start = 0
        for name, size in sizes.items():
            end = len(items) if size is None else start + int(size)
            pieces[name].append(items[start:end].astype(np.int64))
            start = end
    return {name: np.concatenate(parts) for name, parts in pieces.items()}


def _resolve_sizes(sizes: Mapping[str, int | None], items: int) -> dict[str, int]:
    """The sizes with None replaced by what is left, checked against the number of items."""
    open_parts = [name for name, size in sizes.items() if size is None]
    if not sizes or len(open_parts) > 1:
        raise ValueError(
            f"sizes must name at least one part and leave at most one open, got {dict(sizes)}"
        )
    fixed = {}
    for name, size in sizes.items():
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
                raise ValueError(f"sizes[{name!r}] must be an integer >= 0 or None, got {size!r}")
            fixed[name] = int(size)
    rest = items - sum(fixed.values())
    if rest < 0:
        raise ValueError(f"sizes ask for {sum(fixed.values())} items, there are {items}: {fixed}")
    return {name: fixed.get(name, rest) for name in sizes}


def _proportional(total: int, available: NDArray[np.int64]) -> NDArray[np.int64]:
    """Share `total` in proportion to `available`, in integers, by the largest remainders.

    A share never exceeds what is available: total <= sum(available), so each exact share is at
    most available, an integer, and rounding up cannot pass it.
    """
    if total == 0:
        return np.zeros_like(available)
    whole = int(available.sum())
    share, remainder = np.divmod(available * total, whole)
    missing = total - int(share.sum())
    share[np.argsort(-remainder, kind="stable")[:missing]] += 1
    return share
