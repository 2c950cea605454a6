"""What a model was trained on: scores of queries that it has learned say little of others.

`coophash train` keeps a fingerprint of each of its training images beside the model, `encode` marks
those that it meets again, and `evaluate` says how many of the queries are marked.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.checkpoints import write_atomically

LEARNED_FILE = "learned.npy"  # uint64, sorted


def fingerprints(*parts: NDArray[Any]) -> NDArray[np.uint64]:
    """64 bits of a hash of each item.

    Args:
        parts: (N, ...), what an item is known by: its pixels, or features of its image and text.

    Returns:
        (N,).
    """
    digests = b"".join(
        hashlib.blake2b(
            b"".join(np.ascontiguousarray(value).tobytes() for value in item), digest_size=8
        ).digest()
        for item in zip(*parts, strict=True)
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def keep_learned(folder: Path, *parts: NDArray[Any]) -> None:
    """Write the fingerprints of what was trained on into a model's folder."""
    buffer = io.BytesIO()
    np.save(buffer, np.unique(fingerprints(*parts)))
    write_atomically(folder / LEARNED_FILE, buffer.getvalue())


def are_learned(folder: Path, *parts: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which of the items the model in the folder was trained on: (N,); None where not known.

    Raises:
        ValueError: the file of fingerprints is damaged.
    """
    path = folder / LEARNED_FILE
    if not path.is_file():
        return None
    try:
        known = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): restore it, or remove it; codes then do not tell which "
            "images were trained on"
        ) from None
    return np.isin(fingerprints(*parts), known)
