"""Rows of a memory bank drawn at random: the stream of the negatives in `bank_contrast`.

Negative k of sample i is element e = i · 2³² + k of a Philox stream (`philox.py`): word k mod 4 of
counter (4⌊k/4⌋, i, step, chain), key = seed. A word w below 2³² makes the row ⌊w · n / 2³²⌋ of n:
uniform but for a relative error of at most n / 2³² in the chance of a row (4e-5 at n = 186,557),
with one multiplication and no rejection, so that every draw is a function of its number alone.
The kernels draw the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coophash.kernels.philox import philox4x32

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK_CALLS = 16384


def stream_words(integers: tuple[int, ...], rng: Tensor | None) -> dict[str, int]:
    """Seed, step and chain of an op as plain numbers. Reads `rng` back to the host."""
    added = (0, 0, 0) if rng is None else rng.tolist()
    return {
        name: (value + base) & (1 << bits) - 1
        for name, bits, value, base in zip(
            ("seed", "step", "chain"), (64, 32, 32), integers, added, strict=True
        )
    }


def bank_draws(
    samples: int,
    count: int,
    rows: int,
    *,
    seed: int,
    step: int = 0,
    chain: int = 0,
    positives: NDArray[Any] | None = None,
    first: int = 0,
) -> NDArray[np.int64]:
    """Rows drawn uniformly, with replacement, for each sample of a batch.

    Args:
        samples, count: how many samples, and rows for each.
        rows: n of the bank, below 2**31.
        seed: 64-bit key, taken modulo 2**64.
        step, chain: 32-bit counter words, taken modulo 2**32.
        positives: (samples,) rows not to be drawn for their sample: it draws among the other n - 1.
        first: number of the first sample.

    Returns:
        (samples, count) of 0 … rows - 1. Fewer samples or a smaller count draw a part of the same
        table: neither changes a draw.
    """
    quads = -(-count // 4)
    low = 4 * np.arange(quads, dtype=np.uint64)
    range_ = np.uint64(rows if positives is None else rows - 1)
    out = np.empty((samples, count), dtype=np.int64)
    at_once = max(1, _CHUNK_CALLS // max(quads, 1))
    for start in range(0, samples, at_once):
        part = out[start : start + at_once]
        sample = np.arange(first + start, first + start + len(part), dtype=np.uint64)[:, None]
        words: Any = philox4x32(
            low, sample, np.uint64(step & 0xFFFFFFFF), np.uint64(chain & 0xFFFFFFFF), seed
        )
        for position, word in enumerate(words):
            drawn = (word * range_) >> np.uint64(32)
            part[:, position::4] = drawn[:, : part[:, position::4].shape[1]]
        if positives is not None:
            part += part >= positives[start : start + at_once, None]
    return out
