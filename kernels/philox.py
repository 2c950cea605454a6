"""Philox4x32-10 and the normal numbers made of it: the one random stream of every kernel.

Counter (element, element >> 32, step, chain) and a 64-bit seed as key give four 32-bit words
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), and Box-Muller makes them
four normals, for four consecutive elements: the counter holds the number of the first. So the
normal of an element is a function of (element, step, chain, seed) alone: neither the block size of
a kernel, nor the number of elements, nor the order of evaluation changes it. `philox_triton.py`
draws the same stream on the device; kernels/README.md has the derivation.

This file is NumPy and fast enough to be the CPU path of training.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

# cos(pi t) and sin(pi t) / t for |t| <= 1/2 as polynomials in t², lowest power first. Fitted at
# Chebyshev nodes; in fp32 the error is below 2e-7. The kernels use the same digits.
COS_PI = (
    1.0,
    -4.934802055358887,
    4.058709144592285,
    -1.335211992263794,
    0.23493731021881104,
    -0.024396324530243874,
)
SIN_PI = (
    3.1415927410125732,
    -5.167710304260254,
    2.550077438354492,
    -0.598291277885437,
    0.07765766233205795,
)

_Words: TypeAlias = NDArray[np.uint64] | np.uint64

# Calls made at a time. Fewer lose to NumPy's cost per operation (4,096: 1.8 times slower), more to
# the cache.
_CHUNK_CALLS = 16384
_CHUNK = 4 * _CHUNK_CALLS
_FIRST_ELEMENTS = np.arange(0, _CHUNK, 4, dtype=np.uint64)


def philox4x32(
    c0: _Words, c1: _Words, c2: _Words, c3: _Words, seed: int
) -> tuple[_Words, _Words, _Words, _Words]:
    """Ten rounds of Philox4x32.

    Args:
        c0, c1, c2, c3: the four counter words, uint64 arrays or scalars below 2**32 that broadcast
            together.
        seed: the key; its low 32 bits are the first key word.

    Returns:
        Four uint64 arrays of words below 2**32.
    """
    key_0, key_1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        product_0 = c0 * _MULTIPLIER_0
        product_1 = c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            _mix(product_1, c1, key_0),
            product_1 & _LOW,
            _mix(product_0, c3, key_1),
            product_0 & _LOW,
        )
        key_0, key_1 = (key_0 + _WEYL_0) & 0xFFFFFFFF, (key_1 + _WEYL_1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _mix(product: _Words, word: _Words, key: int) -> _Words:
    # Plain assignment where out= cannot be: counter words that are the same for all elements stay
    # scalars through the first rounds.
    mixed = (product >> _HALF) ^ word
    if isinstance(mixed, np.ndarray):
        mixed ^= np.uint64(key)
        return mixed
    return np.uint64(mixed ^ np.uint64(key))


def box_muller(
    radius: NDArray[np.uint64], angle: NDArray[np.uint64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two independent standard normals from each pair of 32-bit words.

    u = (radius + 1/2) / 2³² gives the length sqrt(-2 ln u), at most 6.76. `angle`, read as a signed
    integer, gives t in [-1/2, 1/2), half a turn; its lowest bit, which t hardly sees, chooses the
    other half by negating both results.
    """
    u: NDArray[np.float32] = radius.astype(np.uint32).astype(np.float32)
    u *= np.float32(2.0**-32)
    u += np.float32(2.0**-33)
    length: NDArray[np.float32] = np.log(u, out=u)
    length *= np.float32(-2.0)
    np.sqrt(length, out=length)
    word = angle.astype(np.uint32)
    t: NDArray[np.float32] = word.view(np.int32).astype(np.float32)
    t *= np.float32(2.0**-32)
    signed = length.view(np.uint32)
    signed ^= word << np.uint32(31)
    square: NDArray[np.float32] = np.multiply(t, t)
    cosine = _horner(square, COS_PI)
    sine = _horner(square, SIN_PI)
    sine *= t
    cosine *= length
    sine *= length
    return cosine, sine


def _horner(y: NDArray[np.float32], coefficients: tuple[float, ...]) -> NDArray[np.float32]:
    total = y * np.float32(coefficients[-1])
    for coefficient in coefficients[-2:0:-1]:
        total += np.float32(coefficient)
        total *= y
    total += np.float32(coefficients[0])
    return total


def philox_normal(n: int, *, seed: int, step: int = 0, chain: int = 0) -> NDArray[np.float32]:
    """Standard normal numbers of elements 0 … n - 1 of one step of one chain.

    Args:
        n: how many.
        seed: 64-bit key, taken modulo 2**64.
        step, chain: 32-bit counter words, taken modulo 2**32. Streams that differ in the seed, the
            step or the chain are independent.

    Returns:
        (n,) float32. A shorter array is a prefix of a longer one.
    """
    out = np.empty((n + 3) // 4 * 4, dtype=np.float32)
    step_word, chain_word = np.uint64(step & 0xFFFFFFFF), np.uint64(chain & 0xFFFFFFFF)
    for start in range(0, len(out), _CHUNK):
        part = out[start : start + _CHUNK].reshape(-1, 4)
        # _CHUNK divides 2**32, so the low counter word never wraps within a chunk.
        words: Any = philox4x32(
            _FIRST_ELEMENTS[: len(part)] + np.uint64(start & 0xFFFFFFFF),
            np.uint64(start >> 32),
            step_word,
            chain_word,
            seed,
        )
        part[:, 0], part[:, 1] = box_muller(words[0], words[1])
        part[:, 2], part[:, 3] = box_muller(words[2], words[3])
    return out[:n]
