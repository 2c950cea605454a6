"""Search against an oracle that counts bit by bit and sorts, on every instruction set there is."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coophash as ch
from coophash import _native, search

BITS = (1, 5, 7, 8, 9, 31, 32, 33, 48, 63, 64, 65, 100, 128, 129, 256, 512, 1000, 4096)
ISAS = [name for name, missing in _native.build_info()["isas"].items() if not missing]


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("COOPHASH_ISA", request.param)
    return request.param


def random_codes(kind: str, rows: int, bits: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "constant":
        signs = np.ones((rows, bits), bool)
    elif kind == "clustered":
        centres = np.random.default_rng(bits).random((10, bits)) < 0.5
        signs = centres[rng.integers(10, size=rows)] ^ (rng.random((rows, bits)) < 0.03)
    else:
        signs = rng.random((rows, bits)) < 0.5
    return ch.pack(signs)


def oracle_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left, right = (np.unpackbits(x, axis=1).astype(np.float32) for x in (a, b))
    return (left @ (1 - right).T + (1 - left) @ right.T).astype(np.int32)


def oracle_topk(distances, k, ids=None, allow=None):
    """(Q, k) results of a whole sort by (distance, id)."""
    queries, rows = distances.shape
    ids = np.arange(rows) if ids is None else np.asarray(ids)
    keep = np.ones(rows, bool) if allow is None else allow
    distances, ids = distances[:, keep], ids[keep]
    out_distances = np.full((queries, k), search.NO_DISTANCE, np.int32)
    out_ids = np.full((queries, k), search.NO_ID, np.int64)
    for q in range(queries):
        order = np.lexsort((ids, distances[q]))[:k]
        out_distances[q, : order.size] = distances[q, order]
        out_ids[q, : order.size] = ids[order]
    return out_distances, out_ids


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@functools.cache
def case(bits: int, kind: str):
    rows = 600 + 60_000 // ((bits + 7) // 8)  # several blocks, and enough for several threads
    database = random_codes(kind, rows, bits, 1)
    queries = random_codes(kind, 5, bits, 2)
    return database, queries, oracle_distances(queries, database)


@pytest.mark.parametrize("kind", ["random", "clustered", "constant"])
@pytest.mark.parametrize("bits", BITS)
def test_topk_equals_the_oracle(bits, kind, isa):
    database, queries, distances = case(bits, kind)
    np.testing.assert_array_equal(ch.hamming_distances(queries[:2], database), distances[:2])
    ties = int((distances[0] == distances[0].min()).sum())
    for threads, k in [(1, 1), (2, 10), (3, ties + 1), (1, max(1, ties - 1)), (2, ties), (3, 0)]:
        found = ch.hamming_topk(database, queries, k, threads=threads)
        assert_same(found, oracle_topk(distances, k))


@pytest.mark.parametrize("bits", [8, 32, 64, 100, 256])
def test_many_queries_take_the_other_way_of_sharing_work(bits, isa):
    database, _, _ = case(bits, "clustered")
    database = database[:2500]
    queries = random_codes("clustered", 70, bits, 5)
    expected = oracle_topk(oracle_distances(queries, database), 12)
    for threads in (1, 2, 3, 7):
        assert_same(ch.hamming_topk(database, queries, 12, threads=threads), expected)


@pytest.mark.parametrize("bits", [1, 7, 31, 64, 65, 128, 200, 300, 1000])
def test_every_number_of_rows_ends_right(bits, isa):
    database, queries, distances = case(bits, "random")
    for rows in [*range(0, 70), 127, 128, 129, 255, 257, 513]:
        found = ch.hamming_topk(database[:rows], queries, 4)
        assert_same(found, oracle_topk(distances[:, :rows], 4))


@pytest.mark.parametrize("width", [*range(1, 70), 95, 96, 97, 127, 129, 255, 511, 512])
def test_every_width(width, isa):
    rng = np.random.default_rng(width)
    database = rng.integers(0, 256, (133, width), dtype=np.uint8)
    queries = rng.integers(0, 256, (3, width), dtype=np.uint8)
    distances = oracle_distances(queries, database)
    np.testing.assert_array_equal(ch.hamming_distances(queries, database), distances)
    assert_same(ch.hamming_topk(database, queries, 9), oracle_topk(distances, 9))


def test_all_distances_are_reached(isa):
    for width in (1, 4, 8, 16, 32, 33, 64, 512):
        signs = np.tril(np.ones((8 * width + 1, 8 * width), bool), -1)
        database = ch.pack(signs)
        found = ch.hamming_topk(database, np.zeros((1, width), np.uint8), 8 * width + 1)
        np.testing.assert_array_equal(found[0][0], np.arange(8 * width + 1))


@pytest.mark.parametrize("kind", ["random", "clustered", "constant"])
@pytest.mark.parametrize("bits", [5, 32, 64, 100, 256, 1000])
def test_range_equals_the_oracle(bits, kind, isa):
    database, queries, distances = case(bits, kind)
    nearest = int(distances.min())
    for threads, radius in [(1, 0), (2, nearest), (3, nearest + 3), (2, bits // 3), (1, 10**9)]:
        limits, found, ids = ch.hamming_range(database, queries, radius, threads=threads)
        assert limits[0] == 0 and limits.dtype == ids.dtype == np.int64 and found.dtype == np.int32
        for q in range(len(queries)):
            within = np.flatnonzero(distances[q] <= radius)
            order = within[np.lexsort((within, distances[q, within]))]
            part = slice(limits[q], limits[q + 1])
            np.testing.assert_array_equal(ids[part], order)
            np.testing.assert_array_equal(found[part], distances[q, order])


def test_range_with_many_queries(isa):
    database, _, _ = case(64, "clustered")
    queries = random_codes("clustered", 40, 64, 3)
    distances = oracle_distances(queries, database)
    for threads in (1, 2):
        limits, found, ids = ch.hamming_range(database, queries, 5, threads=threads)
        np.testing.assert_array_equal(np.diff(limits), (distances <= 5).sum(1))
        rows = np.repeat(np.arange(40), np.diff(limits))
        np.testing.assert_array_equal(found, distances[rows, ids])


@pytest.mark.parametrize("bits", [5, 64, 100, 1000])
def test_histogram_counts_every_distance(bits, isa):
    database, queries, distances = case(bits, "clustered")
    expected = np.stack([np.bincount(row, minlength=bits + 1) for row in distances])
    allow = np.random.default_rng(0).random(len(database)) < 0.3
    for threads in (1, 3):
        counts = ch.search.hamming_histogram(database, queries, bits, threads=threads)
        np.testing.assert_array_equal(counts, expected)
        some = ch.search.hamming_histogram(database, queries, bits, allow=allow, threads=threads)
        expected_some = [np.bincount(row[allow], minlength=bits + 1) for row in distances]
        np.testing.assert_array_equal(some, expected_some)
    many = np.repeat(queries, 10, axis=0)
    counts = ch.search.hamming_histogram(database, many, threads=2)
    assert counts.shape == (50, 8 * database.shape[1] + 1)
    np.testing.assert_array_equal(counts[:, : bits + 1], np.repeat(expected, 10, axis=0))


@pytest.mark.parametrize("share", [0.0, 0.002, 0.1, 0.5, 0.9, 1.0])
def test_filters(share, isa):
    database, queries, distances = case(64, "clustered")
    allow = np.random.default_rng(3).random(len(database)) < share
    expected = oracle_topk(distances, 20, allow=allow)
    rows = np.random.default_rng(4).permutation(np.flatnonzero(allow))
    for threads in (1, 2):
        for form in (allow, rows):
            found = ch.hamming_topk(database, queries, 20, allow=form, threads=threads)
            assert_same(found, expected)
        limits, _, ids = ch.hamming_range(database, queries, 12, allow=allow, threads=threads)
        assert allow[ids].all()
        np.testing.assert_array_equal(np.diff(limits), (distances[:, allow] <= 12).sum(1))


def test_a_filter_in_one_corner(isa):
    database, queries, distances = case(32, "random")
    for rows in ([0], [len(database) - 1], [63, 64], list(range(100, 300))):
        allow = np.zeros(len(database), bool)
        allow[rows] = True
        found = ch.hamming_topk(database, queries, 3, allow=allow, threads=2)
        assert_same(found, oracle_topk(distances, 3, allow=allow))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_small_problem(data):
    draw = data.draw
    bits = draw(st.integers(1, 80))
    rows, queries, k = draw(st.integers(0, 90)), draw(st.integers(0, 20)), draw(st.integers(0, 100))
    flips = draw(st.sampled_from([0.0, 0.05, 0.5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    database = ch.pack(rng.random((rows, bits)) < flips)
    asked = ch.pack(rng.random((queries, bits)) < flips)
    distances = oracle_distances(asked, database)
    expected = oracle_topk(distances, k)
    name = draw(st.sampled_from(ISAS))
    threads = draw(st.integers(1, 4))
    ids = rng.permutation(10 * rows + 1)[:rows]
    before = os.environ.get("COOPHASH_ISA")
    os.environ["COOPHASH_ISA"] = name
    try:
        assert_same(ch.hamming_topk(database, asked, k, threads=threads), expected)
        index = ch.HammingIndex(bits, threads=threads)
        for part in np.array_split(np.arange(rows), draw(st.integers(1, 4))):
            index.add(database[part], ids[part])
        assert_same(index.search(asked, k), oracle_topk(distances, k, ids))
    finally:
        if before is None:
            del os.environ["COOPHASH_ISA"]
        else:
            os.environ["COOPHASH_ISA"] = before


@pytest.mark.parametrize("bits", [32, 64, 128, 256, 1000])
def test_distances_equal_those_of_faiss(bits):
    faiss = pytest.importorskip("faiss")
    database, queries, _ = case(bits, "clustered")
    index = faiss.IndexBinaryFlat(bits)
    index.add(database)
    expected, _ = index.search(queries, 50)
    distances, _ = ch.hamming_topk(database, queries, 50)
    np.testing.assert_array_equal(distances, expected)
    radius = int(expected[0, -1])
    limits, _, _ = index.range_search(queries, radius + 1)  # there it is d < radius
    ours, _, _ = ch.hamming_range(database, queries, radius)
    np.testing.assert_array_equal(ours, limits)


def test_rows_that_do_not_lie_together():
    database, queries, distances = case(64, "random")
    expected = oracle_topk(distances[::2, ::-3], 7)
    assert_same(ch.hamming_topk(database[::-3], queries[::2], 7), expected)
    assert_same(
        ch.hamming_topk(np.asfortranarray(database[::-3]), np.asfortranarray(queries[::2]), 7),
        expected,
    )


def test_codes_at_any_address(isa):
    for bits in (32, 64, 128, 256, 1000):
        database, queries, distances = case(bits, "random")
        buffer = np.zeros(database.size + 64, np.uint8)
        for shift in (1, 3, 33):
            moved = buffer[shift : shift + database.size].reshape(database.shape)
            moved[:] = database
            assert_same(ch.hamming_topk(moved, queries, 5), oracle_topk(distances, 5))


def test_a_mapped_file(tmp_path):
    database, queries, distances = case(64, "random")
    database.tofile(tmp_path / "codes")
    mapped = np.memmap(tmp_path / "codes", np.uint8, "r").reshape(database.shape)
    assert_same(ch.hamming_topk(mapped, queries, 5), oracle_topk(distances, 5))


def test_tensors_in_tensors_out():
    torch = pytest.importorskip("torch")
    database, queries, distances = case(64, "random")
    expected = oracle_topk(distances, 5)
    tensors = torch.from_numpy(database), torch.from_numpy(queries)
    for a, b in [tensors, (database, tensors[1])]:
        found = ch.hamming_topk(a, b, 5)
        assert all(isinstance(x, torch.Tensor) for x in found)
        assert_same([x.numpy() for x in found], expected)
    assert isinstance(ch.hamming_topk(tensors[0], queries, 5)[0], np.ndarray)
    assert isinstance(ch.hamming_distances(*tensors), torch.Tensor)
    assert all(isinstance(x, torch.Tensor) for x in ch.hamming_range(*tensors, 3))
    assert isinstance(ch.search.hamming_histogram(*tensors), torch.Tensor)


def test_no_queries_and_no_rows():
    codes = np.zeros((3, 8), np.uint8)
    distances, ids = ch.hamming_topk(codes[:0], codes, 2)
    assert (distances == search.NO_DISTANCE).all() and (ids == search.NO_ID).all()
    assert ch.hamming_topk(codes, codes[:0], 2)[0].shape == (0, 2)
    assert ch.hamming_range(codes, codes[:0], 2)[0].tolist() == [0]
    assert ch.hamming_range(codes[:0], codes, 2)[0].tolist() == [0, 0, 0, 0]
    assert ch.hamming_distances(codes[:0], codes).shape == (0, 3)
    assert ch.search.hamming_histogram(codes[:0], codes).sum() == 0


GOOD = np.zeros((4, 8), np.uint8)
MANY = np.zeros((10_000, 8), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ch.hamming_topk(GOOD.astype("f4"), GOOD, 1), TypeError, "database must be uint8"),
        (lambda: ch.hamming_topk(GOOD, GOOD.astype("i8"), 1), TypeError, "queries must be uint8"),
        (lambda: ch.hamming_topk(GOOD, GOOD[0], 1), ValueError, r"queries\[None\]"),
        (lambda: ch.hamming_topk(GOOD, GOOD[:, :4], 1), ValueError, "codes of one length"),
        (lambda: ch.hamming_topk(GOOD[:, :0], GOOD[:, :0], 1), ValueError, "1 to 512"),
        (lambda: ch.hamming_topk(GOOD, GOOD, -1), ValueError, "k must be 0"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1.5), TypeError, "k must be a whole number"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1 << 40), ValueError, "k must be 0"),
        (lambda: ch.hamming_topk(GOOD, MANY, (1 << 31) - 1), MemoryError, "10000 queries take"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1, threads=0), ValueError, "threads must be 1"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1, threads="2"), TypeError, "threads must be"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1, allow=[4]), ValueError, "row numbers 0 to 3"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1, allow=[-1]), ValueError, "row numbers"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1, allow=[True]), ValueError, "each of the 4 codes"),
        (lambda: ch.hamming_topk(GOOD, GOOD, 1, allow=[0.5]), TypeError, "whole numbers"),
        (lambda: ch.hamming_range(GOOD, GOOD, -1), ValueError, "radius must be >= 0"),
        (lambda: ch.hamming_range(GOOD, GOOD, 1.0), TypeError, "radius must be a whole number"),
        (lambda: ch.hamming_distances(GOOD, None), TypeError, "b must be an array"),
        (lambda: ch.search.hamming_histogram(GOOD, GOOD, 32), ValueError, "for 32 bits"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_forced_instruction_set_that_is_missing_says_why(monkeypatch):
    missing = [name for name in _native.ISAS if name not in ISAS]
    assert missing, "no machine has them all"
    monkeypatch.setenv("COOPHASH_ISA", missing[0])
    with pytest.raises(RuntimeError, match=f"COOPHASH_ISA={missing[0]}: .*have"):
        ch.hamming_topk(GOOD, GOOD, 1)
    monkeypatch.setenv("COOPHASH_ISA", "sse9")
    with pytest.raises(ValueError, match="COOPHASH_ISA must be one of serial"):
        ch.hamming_topk(GOOD, GOOD, 1)


def test_backends(monkeypatch):
    monkeypatch.setenv("COOPHASH_BACKEND", "reference")
    assert _native.isa() == "serial"
    monkeypatch.setenv("COOPHASH_BACKEND", "native")
    assert _native.isa() == ""
    monkeypatch.setenv("COOPHASH_BACKEND", "cuda")
    monkeypatch.setattr(_native, "cuda_status", lambda: "no NVIDIA GPU")
    with pytest.raises(RuntimeError, match="COOPHASH_BACKEND=cuda: no NVIDIA GPU"):
        ch.hamming_topk(GOOD, GOOD, 1)
    with pytest.raises(RuntimeError, match="COOPHASH_BACKEND=cuda: no NVIDIA GPU"):
        ch.hamming_distances(GOOD, GOOD)
    with pytest.raises(RuntimeError, match='runs on the CPU; give the index device="cuda"'):
        ch.HammingIndex(8 * GOOD.shape[1]).search(GOOD, 1)
    monkeypatch.setenv("COOPHASH_BACKEND", "fast")
    with pytest.raises(ValueError, match="COOPHASH_BACKEND must be one of"):
        ch.hamming_topk(GOOD, GOOD, 1)
