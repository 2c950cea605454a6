"""The random stream: published words, a word-by-word oracle, layout, statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coophash.kernels.philox import COS_PI, SIN_PI, box_muller, philox4x32, philox_normal

# Known answers for Philox4x32-10 of the Random123 distribution (kat_vectors): counter, key, words.
KNOWN = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def oracle_words(counter: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Philox4x32-10 on Python integers, as the paper writes it."""
    c, k = list(counter), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return tuple(c)


def oracle_normal(element: int, seed: int, step: int, chain: int) -> float:
    """The normal of one element, in double precision with the library's cosine and sine."""
    first = element // 4 * 4
    words = oracle_words((first & 0xFFFFFFFF, first >> 32, step, chain), seed)
    radius, angle = words[element % 4 // 2 * 2], words[element % 4 // 2 * 2 + 1]
    length = math.sqrt(-2.0 * math.log((radius + 0.5) / 2**32))
    turn = (angle - 2**32 if angle >= 2**31 else angle) / 2**32
    function = math.sin if element % 2 else math.cos
    return (-length if angle & 1 else length) * function(math.pi * turn)


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_published_words(counter, key, words):
    drawn = philox4x32(*(np.uint64(c) for c in counter), key[0] | key[1] << 32)
    assert tuple(int(word) for word in drawn) == words
    assert oracle_words(counter, key[0] | key[1] << 32) == words


def test_words_of_arrays_equal_the_oracle():
    rng = np.random.default_rng(0)
    counters = rng.integers(0, 2**32, (4, 50), dtype=np.uint64)
    # Mixed scalars and arrays, as philox_normal calls it.
    drawn = philox4x32(counters[0], counters[1][0], counters[2], counters[3][0], 2**64 - 3)
    for i in range(50):
        counter = (counters[0][i], counters[1][0], counters[2][i], counters[3][0])
        assert tuple(int(w[i]) for w in drawn) == oracle_words(
            tuple(int(c) for c in counter), 2**64 - 3
        )


@pytest.mark.parametrize("seed, step, chain", [(0, 0, 0), (7, 3, 1), (2**64 - 1, 2**32 - 1, 9)])
def test_normals_equal_the_oracle(seed, step, chain):
    drawn = philox_normal(1003, seed=seed, step=step, chain=chain)
    expected = [oracle_normal(e, seed, step, chain) for e in range(1003)]
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=2e-6)


def test_chunks_join_without_a_seam():
    drawn = philox_normal(2 * 65536 + 5, seed=11)
    for element in (65535, 65536, 65537, 131071, 131072, 131076):
        assert drawn[element] == pytest.approx(oracle_normal(element, 11, 0, 0), abs=2e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 63, 1000, 70_001])
def test_shorter_is_a_prefix_of_longer(n):
    short = philox_normal(n, seed=3, step=2)
    assert short.shape == (n,)
    np.testing.assert_array_equal(short, philox_normal(n + 77, seed=3, step=2)[:n])


def test_polynomials():
    t = np.linspace(-0.5, 0.5, 100_001)
    cosine = np.polynomial.polynomial.polyval(t * t, COS_PI)
    sine = t * np.polynomial.polynomial.polyval(t * t, SIN_PI)
    assert np.abs(cosine - np.cos(np.pi * t)).max() < 1e-7
    assert np.abs(sine - np.sin(np.pi * t)).max() < 1e-7


def test_box_muller_at_the_ends_of_the_words():
    ends = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], dtype=np.uint64)
    radius, angle = (a.reshape(-1) for a in np.meshgrid(ends, ends))
    cosine, sine = box_muller(radius, angle)
    assert np.isfinite(cosine).all() and np.isfinite(sine).all()
    # Longest: u = 2**-33. On the circle: cos² + sin² = length².
    length = np.sqrt(np.maximum(-2 * np.log((radius.astype(float) + 0.5) / 2**32), 0))
    assert length.max() == pytest.approx(math.sqrt(66 * math.log(2)))
    np.testing.assert_allclose(np.hypot(cosine, sine), length, atol=2e-4)


def test_moments_and_tails():
    n = 1_000_000
    x = philox_normal(n, seed=2024).astype(np.float64)
    # Five standard errors each.
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    grid = np.linspace(-4, 4, 33)
    cdf = np.array([0.5 * math.erfc(-g / math.sqrt(2)) for g in grid])
    empirical = np.searchsorted(np.sort(x), grid) / n
    assert np.abs(empirical - cdf).max() < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("lag", [1, 2, 3, 4])
def test_neighbouring_elements_are_uncorrelated(lag):
    x = philox_normal(400_000, seed=5)
    assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 5 / math.sqrt(len(x))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 43, "step": 7, "chain": 2},
        {"seed": 42, "step": 8, "chain": 2},
        {"seed": 42, "step": 7, "chain": 3},
        {"seed": 42 + 2**32, "step": 7, "chain": 2},
        # The trap of seeding step i with seed + i: the next seed, one step earlier.
        {"seed": 43, "step": 6, "chain": 2},
    ],
)
def test_streams_are_independent(other):
    n = 200_000
    x = philox_normal(n, seed=42, step=7, chain=2)
    y = philox_normal(n, **other)
    assert not np.any(x[:100] == y[:100])
    assert abs(np.corrcoef(x, y)[0, 1]) < 5 / math.sqrt(n)
    assert abs(np.corrcoef(x[:-1], y[1:])[0, 1]) < 5 / math.sqrt(n)
    assert abs(np.corrcoef(np.abs(x), np.abs(y))[0, 1]) < 5 / math.sqrt(n)


def test_integers_wrap_as_documented():
    base = philox_normal(8, seed=5, step=6, chain=7)
    np.testing.assert_array_equal(
        base, philox_normal(8, seed=5 + 2**64, step=6 + 2**32, chain=7 - 2**32)
    )
