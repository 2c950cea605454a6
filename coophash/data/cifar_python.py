"""The "python version" of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): pickles, read without trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.data.plain_pickle import read_plain_pickle

_PIXELS = 3 * 32 * 32


def read_batch(
    path: Path, label_key: str, classes: int, images: int | None, source: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One batch file: uint8 (N, 3, 32, 32) and int64 (N,).

    Args:
        label_key: the entry that holds the labels, beside `data`.
        classes: labels are from 0 to this less 1.
        images: how many there must be; None for any number.
        source: for the messages, where the file comes from.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plain pickle, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {source}")
    batch = _entries(path)
    mend = f"it is damaged or of another layout; unpack it again ({source})"
    pixels, raw = batch.get("data"), batch.get(label_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise ValueError(f"{path} has no uint8 array 'data' (N, {_PIXELS}): {mend}")
    count = len(pixels)
    if pixels.shape[1] != _PIXELS or count == 0 or (images is not None and count != images):
        expected = "N" if images is None else f"{images:,}"
        raise ValueError(
            f"{path} has data {pixels.shape}, expected ({expected}, {_PIXELS}): {mend}"
        )
    if not isinstance(raw, list) or not all(type(label) is int for label in raw):
        raise ValueError(f"{path} has no list {label_key!r} of integers: {mend}")
    if len(raw) != count:
        raise ValueError(f"{path} has {count:,} images and {len(raw):,} labels: {mend}")
    wrong = next((row for row, label in enumerate(raw) if not 0 <= label < classes), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: image {wrong} has label {raw[wrong]}, expected 0 to {classes - 1}: {mend}"
        )
    return pixels.reshape(-1, 3, 32, 32), np.array(raw, dtype=np.int64)


def read_names(path: Path, key: str, classes: int) -> tuple[str, ...]:
    """Names of the classes in a `meta` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plain pickle, or has no list of so many names.
    """
    names = _entries(path).get(key)
    if not isinstance(names, list) or len(names) != classes:
        raise ValueError(f"{path} has no list {key!r} of {classes} names: unpack it again")
    return tuple(_text(name) for name in names)


def _entries(path: Path) -> dict[str, Any]:
    batch = read_plain_pickle(path)
    if not isinstance(batch, dict):
        raise ValueError(f"{path} holds no dict but a {type(batch).__name__}: another layout")
    return {_text(key): value for key, value in batch.items()}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
