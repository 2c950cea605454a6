"""Row filters: every way of giving one, every density, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coophash as ch
from coophash import _native
from coophash._rows import bitset_of, from_bitset, to_bitset
from coophash.search import hamming_histogram

ISAS = [name for name, missing in _native.build_info()["isas"].items() if not missing]
# Rows that are looked at together, see csrc/cpu/blocks.h.
STRETCH = 32768


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("COOPHASH_ISA", request.param)
    return request.param


def all_distances(queries, database):
    a, b = (np.unpackbits(x, axis=1).astype(np.float32) for x in (queries, database))
    return (a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T).astype(np.int32)


def expected_topk(distances, keep, k):
    """(Q, k) by a whole sort of the rows that are kept; at least k of them."""
    rows = np.flatnonzero(keep)
    key = distances[:, rows].astype(np.int64) * (1 << 32) + rows
    key = np.sort(np.partition(key, k - 1, axis=1)[:, :k], axis=1)
    return key >> 32, key & (1 << 32) - 1


def masks(rows, rng):
    """Filters in which stretches are dense, sparse, empty and full, by turns."""
    shares = np.array([1.0, 0.001, 0.0, 0.5, 0.9, 0.05, 0.0, 1.0, 0.3])
    by_row = np.arange(rows) // STRETCH
    yield rng.random(rows) < shares[by_row % len(shares)]
    yield rng.random(rows) < shares[::-1][by_row % len(shares)]
    for share in (0.99, 0.5, 0.1, 0.001):
        yield rng.random(rows) < share
    corner = np.zeros(rows, bool)
    corner[-40:] = True
    yield corner
    yield np.roll(corner, -STRETCH + 20)


@pytest.mark.parametrize("bits", [32, 64, 100])
def test_filters_of_every_density(bits, isa):
    rng = np.random.default_rng(bits)
    rows = 5 * STRETCH + 333
    database = ch.pack(rng.random((rows, bits)) < 0.5)
    queries = ch.pack(rng.random((36, bits)) < 0.5)
    distances = all_distances(queries, database)
    radius = int(np.sort(distances[0])[200])
    for keep in masks(rows, rng):
        k = min(15, int(keep.sum()))
        expected = expected_topk(distances, keep, k)
        counts = np.stack([np.bincount(row[keep], minlength=bits + 1) for row in distances[:2]])
        for count, threads in [(36, 1), (36, 2), (1, 2)]:
            found = ch.hamming_topk(database, queries[:count], k, allow=keep, threads=threads)
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs[:count])
            limits, near, ids = ch.hamming_range(
                database, queries[:count], radius, allow=keep, threads=threads
            )
            within = (distances[:count] <= radius) & keep
            np.testing.assert_array_equal(np.diff(limits), within.sum(axis=1))
            query = np.repeat(np.arange(count), np.diff(limits))
            assert keep[ids].all()
            np.testing.assert_array_equal(near, distances[query, ids])
            assert (np.diff((query * 4097 + near) * rows + ids) > 0).all()
        found = hamming_histogram(database, queries[:2], bits, allow=keep, threads=2)
        np.testing.assert_array_equal(found, counts)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 3000),
    share=st.sampled_from([0.0, 0.0005, 0.005, 0.3, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_bitsets(rows, share, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rows) < share
    words = to_bitset(mask)
    assert words.dtype == np.uint64 and words.shape == ((rows + 63) // 64,)
    np.testing.assert_array_equal(from_bitset(words, rows), mask)
    ids = np.flatnonzero(mask)
    twice = rng.permutation(np.concatenate([ids, ids]))
    np.testing.assert_array_equal(bitset_of(ids, rows), words)
    np.testing.assert_array_equal(bitset_of(twice, rows), words)
    for row in ids[:5]:
        assert words[row // 64] >> np.uint64(row % 64) & np.uint64(1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_filters_of_an_index(data):
    """By mask and by ids, over several runs, with rows removed."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 400))
    database = ch.pack(rng.random((rows, 20)) < 0.5)
    ids = np.arange(rows) * 3 if draw(st.booleans()) else rng.permutation(9 * rows)[:rows]
    index = ch.HammingIndex(20)
    for part in np.array_split(np.arange(rows), draw(st.integers(1, 3))):
        index.add(database[part], ids[part])
    gone = rng.random(rows) < draw(st.sampled_from([0.0, 0.2, 0.45]))
    index.remove(ids[gone])
    keep = rng.random(rows) < draw(st.sampled_from([0.01, 0.5, 1.0]))
    asked = ch.pack(rng.random((3, 20)) < 0.5)
    distances = all_distances(asked, database)
    there = keep & ~gone
    # Ids that were removed or never there are passed over.
    by_id = rng.permutation(np.concatenate([ids[keep], [10 * rows + 7]]))
    for allow in (keep[~gone], by_id):
        found = index.search(asked, rows, allow=allow)
        limits, _, within = index.range_search(asked, 9, allow=allow)
        for q in range(3):
            order = np.lexsort((ids, distances[q]))
            order = order[there[order]]
            np.testing.assert_array_equal(found[1][q, : order.size], ids[order])
            assert (found[1][q, order.size :] == -1).all()
            near = order[distances[q, order] <= 9]
            np.testing.assert_array_equal(within[limits[q] : limits[q + 1]], ids[near])


def test_wrong_filters_of_an_index():
    index = ch.HammingIndex(16)
    index.add(np.zeros((5, 2), np.uint8))
    index.remove([0])
    query = np.zeros((1, 2), np.uint8)
    cases = [
        (np.ones(5, bool), ValueError, "one entry for each of the 4 codes in the index, got 5"),
        (np.ones((2, 2), bool), ValueError, "allow must be a mask"),
        ([0.5], TypeError, "allow must be whole numbers"),
        ([[1]], ValueError, "allow must be whole numbers"),
        ("all", TypeError, "allow must be an array"),
    ]
    for allow, error, message in cases:
        with pytest.raises(error, match=message):
            index.search(query, 1, allow=allow)
        with pytest.raises(error, match=message):
            index.range_search(query, 1, allow=allow)
    assert index.search(query, 2, allow=[])[1].tolist() == [[-1, -1]]
    assert index.search(query, 2, allow=np.zeros(4, bool))[1].tolist() == [[-1, -1]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_a_mask_that_is_not_bool_is_refused(dtype):
    """It was read as the row numbers 0 and 1."""
    codes = np.random.default_rng(0).integers(0, 256, (100, 8), dtype=np.uint8)
    mask = (np.arange(100) % 2).astype(dtype)
    index = ch.HammingIndex(64)
    index.add(codes)
    for search in (
        lambda: ch.hamming_topk(codes, codes[:2], 3, allow=mask),
        lambda: index.search(codes[:2], 3, allow=mask),
    ):
        with pytest.raises(ValueError, match=r"allow holds 0 and 1 alone.*allow.astype\(bool\)"):
            search()
    assert ch.hamming_topk(codes, codes[:2], 1, allow=np.array([0, 1]))[1].max() <= 1
