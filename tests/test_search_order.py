"""Results by counting and placing: range search, and k a large part of the rows.

Against a whole sort by (distance, id), on every instruction set, for ids in any order, filters and
several runs of rows.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coophash as ch
from coophash import _memory, _native, search

ISAS = [name for name, missing in _native.build_info()["isas"].items() if not missing]


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("COOPHASH_ISA", request.param)
    return request.param


def all_distances(queries, database):
    a, b = (np.unpackbits(x, axis=1).astype(np.float32) for x in (queries, database))
    return (a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T).astype(np.int32)


def sorted_rows(distances, ids, keep):
    """Rows that are kept by (distance, id), of one query: distances and ids."""
    order = np.lexsort((ids, distances))
    order = order[keep[order]]
    return distances[order], ids[order]


def assert_topk(found, distances, ids, keep, k):
    for q, row in enumerate(distances):
        near, which = sorted_rows(row, ids, keep)
        count = min(k, len(near))
        np.testing.assert_array_equal(found[0][q, :count], near[:count])
        np.testing.assert_array_equal(found[1][q, :count], which[:count])
        assert (found[0][q, count:] == search.NO_DISTANCE).all()
        assert (found[1][q, count:] == search.NO_ID).all()


def assert_range(found, distances, ids, keep, radius):
    limits, near, which = found
    assert limits[0] == 0 and limits.dtype == which.dtype == np.int64 and near.dtype == np.int32
    assert len(near) == len(which) == limits[-1]
    for q, row in enumerate(distances):
        expected = sorted_rows(row, ids, keep & (row <= radius))
        part = slice(limits[q], limits[q + 1])
        np.testing.assert_array_equal(near[part], expected[0])
        np.testing.assert_array_equal(which[part], expected[1])


def rank(spans, increasing, queries, k, threads, isa):
    width = queries.shape[1]
    return _native.library().topk(spans, width, increasing, queries, k, threads, isa, "rank")


@pytest.mark.parametrize("kind", ["random", "clustered", "constant"])
@pytest.mark.parametrize("bits", [8, 32, 48, 64, 200, 1000])
def test_ranking_equals_a_sort(bits, kind, isa):
    rng = np.random.default_rng(bits)
    rows = 40_000 // (bits // 8) + 333  # several blocks
    centres = rng.random((1 if kind == "constant" else 7, bits)) < 0.5
    flips = {"random": 0.5, "clustered": 0.05, "constant": 0}[kind]

    def draw(count):
        codes = centres[rng.integers(len(centres), size=count)]
        return ch.pack(codes ^ (rng.random((count, bits)) < flips))

    database, queries = draw(rows), draw(37)
    distances = all_distances(queries, database)
    ids, keep = np.arange(rows), rng.random(rows) < 0.5
    whole = np.ones(rows, bool)
    ties = int((distances[0] == distances[0].min()).sum())
    cases = [(1, 37, 1), (rows // 20, 37, 2), (rows, 3, 3), (rows + 5, 1, 2), (ties, 2, 2)]
    for k, count, threads in cases:
        found = rank([(database, None, 0, None)], True, queries[:count], k, threads, isa)
        assert_topk(found, distances[:count], ids, whole, k)
        # the same by the public way, which chooses for itself
        found = ch.hamming_topk(database, queries[:count], k, threads=threads, allow=keep)
        assert_topk(found, distances[:count], ids, keep, k)


@pytest.mark.parametrize("queries", [1, 5, 70])
def test_ids_in_any_order_and_removed_rows(queries, isa):
    rng = np.random.default_rng(queries)
    rows = 9000
    database = ch.pack(rng.random((rows, 40)) < 0.2)
    ids = rng.permutation(10**12 + np.arange(rows) * 7)
    index = ch.HammingIndex(40, threads=2)
    for part in np.array_split(np.arange(rows), 3):
        index.add(database[part], ids[part])
    gone = rng.random(rows) < 0.3
    index.remove(ids[gone])
    asked = ch.pack(rng.random((queries, 40)) < 0.2)
    distances = all_distances(asked, database)
    for k in (700, rows // 2, rows):
        assert_topk(index.search(asked, k), distances, ids, ~gone, k)
    for radius in (0, 5, 9, 40):
        assert_range(index.range_search(asked, radius), distances, ids, ~gone, radius)
    some = rng.random(rows) < 0.1
    found = index.range_search(asked, 8, allow=ids[some])
    assert_range(found, distances, ids, some & ~gone, 8)


@pytest.mark.parametrize(("bits", "queries", "radius"), [(64, 1, 64), (64, 12, 33), (24, 40, 12)])
def test_more_results_than_the_log_holds(bits, queries, radius, isa):
    rng = np.random.default_rng(bits)
    database = ch.pack(rng.random((1_200_000 if queries == 1 else 120_000, bits)) < 0.5)
    asked = ch.pack(rng.random((queries, bits)) < 0.5)
    keep = rng.random(len(database)) < 0.97
    distances = all_distances(asked, database)
    for allow in (None, keep):
        found = ch.hamming_range(database, asked, radius, allow=allow, threads=2)
        assert found[0][-1] > (1 << 20) // 2
        near = distances <= radius if allow is None else (distances <= radius) & keep
        np.testing.assert_array_equal(np.diff(found[0]), near.sum(1))
        rows = np.repeat(np.arange(queries), np.diff(found[0]))
        np.testing.assert_array_equal(found[1], distances[rows, found[2]])
        key = (rows * (bits + 1) + found[1]) * len(database) + found[2]
        assert (np.diff(key) > 0).all()  # by (query, distance, id), each once
        assert allow is None or keep[found[2]].all()


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.02, 0.3])
def test_batches_that_slices_find(rate, isa):
    # Blocks with few hits, then some with many, which another kernel looks for.
    rng = np.random.default_rng(7)
    database = ch.pack(rng.random((60_000, 64)) < 0.5)
    asked = ch.pack(rng.random((90, 64)) < 0.5)
    near = np.flatnonzero(rng.random(30_000) < rate)
    database[near] = asked[rng.integers(90, size=near.size)]
    distances = all_distances(asked, database)
    whole = np.ones(len(database), bool)
    for threads in (1, 2):
        found = ch.hamming_range(database, asked, 14, threads=threads)
        assert_range(found, distances, np.arange(len(database)), whole, 14)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_small_problem(data):
    draw = data.draw
    bits, rows, queries = (
        draw(st.integers(1, 90)),
        draw(st.integers(0, 300)),
        draw(st.integers(0, 9)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    flips = draw(st.sampled_from([0.0, 0.05, 0.5]))
    database = ch.pack(rng.random((rows, bits)) < flips)
    asked = ch.pack(rng.random((queries, bits)) < flips)
    keep = rng.random(rows) < draw(st.sampled_from([0.02, 0.5, 1.0]))
    octets = np.zeros((rows + 63) // 64 * 8, np.uint8)
    octets[: (rows + 7) // 8] = np.packbits(keep, bitorder="little")
    words = octets.view(np.uint64)
    increasing = draw(st.booleans())
    ids = np.sort(rng.permutation(4 * rows + 1)[:rows])
    ids = ids if increasing else rng.permutation(ids)
    cut = draw(st.integers(0, rows)) // 64 * 64
    spans = [
        (
            database[part],
            ids[part],
            0,
            words.view(np.uint64)[part.start // 64 : -(-part.stop // 64)],
        )
        for part in (slice(0, cut), slice(cut, rows))
    ]
    distances = all_distances(asked, database)
    k, radius = draw(st.integers(1, rows + 3)), draw(st.integers(0, bits))
    name, threads = draw(st.sampled_from(ISAS)), draw(st.integers(1, 4))
    assert_topk(rank(spans, increasing, asked, k, threads, name), distances, ids, keep, k)
    found = _native.library().range(
        spans, database.shape[1], increasing, asked, radius, threads, name, lambda results: None
    )
    assert_range(found, distances, ids, keep, radius)


def test_results_that_do_not_fit_into_memory_are_refused(monkeypatch):
    codes = np.zeros((3000, 8), np.uint8)
    index = ch.HammingIndex(64)
    index.add(codes)
    assert ch.hamming_range(codes, codes, 0)[0][-1] == 9_000_000
    monkeypatch.setattr(_memory, "available_memory", lambda: 100_000_000)
    message = (
        "the 9,000,000 codes within radius 3 of 3,000 queries take 0.1 GB and this machine has "
        "0.1 GB free: ask for less, or for a part of the queries at a time"
    )
    for call in (lambda: ch.hamming_range(codes, codes, 3), lambda: index.range_search(codes, 3)):
        with pytest.raises(MemoryError) as error:
            call()
        assert str(error.value) == message
    assert ch.hamming_range(codes, codes[:2000], 3)[0][-1] == 6_000_000
    with pytest.raises(MemoryError, match="k = 2000000 results for each of 3000 queries take"):
        ch.hamming_topk(codes, codes, 2_000_000)


def test_available_memory(monkeypatch):
    found = _memory.available_memory()
    assert found is None or 10**6 < found < 10**15
    files = {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable:    5000 kB"],
        "/sys/fs/cgroup/memory.max": ["4000000"],
        "/sys/fs/cgroup/memory.current": ["1500000"],
        "/sys/fs/cgroup/memory.stat": ["active_file 100000", "anon 3", "inactive_file 400000"],
    }
    monkeypatch.setattr(_memory, "_lines", lambda path: files.get(path, []))
    assert _memory.available_memory() == 3_000_000
    files["/sys/fs/cgroup/memory.max"] = ["max"]
    assert _memory.available_memory() == 5_120_000
    files.clear()
    assert _memory.available_memory() == _memory._of_the_machine()
