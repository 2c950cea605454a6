"""Histograms of distances, split by relevance: against counting pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coophash as ch
from coophash import _memory, _native
from coophash.search import hamming_histogram

ISAS = [name for name, missing in _native.build_info()["isas"].items() if not missing]


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("COOPHASH_ISA", request.param)
    return request.param


def oracle(database, queries, bins, same, allow=None):
    """total and relevant, (Q, bins), with `same` (Q, N) saying which pairs are relevant."""
    keep = np.ones(len(database), bool) if allow is None else allow
    unpacked = np.unpackbits(database, axis=1)
    total, relevant = np.zeros((2, len(queries), bins), np.int64)
    for q, query in enumerate(np.unpackbits(queries, axis=1)):
        distances = (unpacked != query).sum(axis=1)
        total[q] = np.bincount(distances[keep], minlength=bins)
        relevant[q] = np.bincount(distances[keep & same[q]], minlength=bins)
    return total, relevant


def random_labels(rng, kind, count, classes):
    if kind == "classes":
        return rng.integers(0, classes, count)
    if kind == "one hot":
        labels = np.eye(classes, dtype=bool)[rng.integers(0, classes, count)]
        labels[rng.random(count) < 0.2] = False  # relevant to nothing
        return labels
    return rng.random((count, classes)) < 2.5 / classes


def relevant_pairs(queries, database):
    if queries.ndim == 1:
        return queries[:, None] == database[None]
    return (queries.astype(np.int64) @ database.T.astype(np.int64)) > 0


@pytest.mark.parametrize("kind", ["classes", "one hot", "labels"])
@pytest.mark.parametrize(("bits", "classes"), [(5, 3), (48, 10), (64, 40), (100, 70), (1000, 1000)])
def test_relevant_rows_are_counted_apart(bits, classes, kind, isa):
    rng = np.random.default_rng(bits)
    rows = 40_000 // ((bits + 7) // 8) + 77  # several blocks
    database = ch.pack(rng.random((rows, bits)) < 0.3)
    queries = ch.pack(rng.random((37, bits)) < 0.3)
    labels = random_labels(rng, kind, rows, classes), random_labels(rng, kind, 37, classes)
    same = relevant_pairs(labels[1], labels[0])
    assert same.any() and not same.all()
    allow = rng.random(rows) < 0.4
    for some, count, threads in [(None, 37, 1), (None, 37, 2), (None, 3, 3), (allow, 37, 2)]:
        expected = oracle(database, queries[:count], bits + 1, same[:count], some)
        found = hamming_histogram(
            database,
            queries[:count],
            bits,
            allow=some,
            relevance=(labels[0], labels[1][:count]),
            threads=threads,
        )
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == np.int64


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_small_case(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, count, bits = (
        draw(st.integers(0, 90)),
        draw(st.integers(0, 20)),
        draw(st.integers(1, 140)),
    )
    classes = draw(st.integers(2, 90))
    kind = draw(st.sampled_from(["classes", "one hot", "labels"]))
    database = ch.pack(rng.random((rows, bits)) < 0.5)
    queries = ch.pack(rng.random((count, bits)) < 0.5)
    labels = random_labels(rng, kind, rows, classes), random_labels(rng, kind, count, classes)
    allow = rng.random(rows) < draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    expected = oracle(database, queries, bits + 1, relevant_pairs(labels[1], labels[0]), allow)
    forms = [allow, np.flatnonzero(allow)]
    for some in forms:
        found = hamming_histogram(
            database,
            queries,
            bits,
            allow=some,
            relevance=labels,
            threads=draw(st.integers(1, 3)),
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("width", [1, 4, 8, 16, 40])
def test_equal_codes_and_large_classes(width, isa):
    # Every row at one distance: the counters of one bin take them all.
    rows = 1_200_000 // width
    database, queries = np.zeros((rows, width), np.uint8), np.zeros((6, width), np.uint8)
    queries[:, 0], queries[1] = 1, 255
    theirs = np.arange(rows) % 3 + (1 << 60)
    total, relevant = hamming_histogram(
        database, queries, relevance=(theirs, [1 << 60, 7, (1 << 60) + 2, 0, 1 << 60, 1 << 61])
    )
    for q in range(6):
        distance = 8 * width if q == 1 else 1
        assert total[q, distance] == total[q].sum() == rows
        expected = {0: rows + 2, 2: rows, 4: rows + 2}.get(q, 0) // 3
        assert relevant[q, distance] == relevant[q].sum() == expected


def test_more_classes_than_sixteen_bits_number():
    rng = np.random.default_rng(0)
    queries, database = (rng.integers(0, 256, (n, 1), dtype=np.uint8) for n in (70_000, 64))
    ours = np.arange(70_000) * 5
    theirs = ours[rng.integers(69_000, 70_000, 64)]
    total, relevant = hamming_histogram(database, queries, relevance=(theirs, ours))
    assert (total.sum(axis=1) == 64).all()
    np.testing.assert_array_equal(relevant.sum(axis=1), np.bincount(theirs // 5, minlength=70_000))
    query = int(theirs[0]) // 5
    distance = np.unpackbits(queries[query] ^ database[0]).sum()
    assert relevant[query, distance] >= 1


def test_what_comes_in_comes_out():
    codes = np.arange(8, dtype=np.uint8).reshape(4, 2)
    labels = [0, 1, 0, 1]
    assert isinstance(hamming_histogram(codes, codes), np.ndarray)
    torch = pytest.importorskip("torch")
    found = hamming_histogram(
        torch.from_numpy(codes), torch.from_numpy(codes), relevance=(labels,) * 2
    )
    assert all(isinstance(x, torch.Tensor) for x in found)
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels)).float()
    again = hamming_histogram(codes, codes, relevance=(one_hot, one_hot))
    np.testing.assert_array_equal(again, [x.numpy() for x in found])


def test_counts_that_do_not_fit_into_memory_are_refused(monkeypatch):
    codes, labels = np.zeros((4000, 8), np.uint8), np.zeros(4000, int)
    monkeypatch.setattr(_memory, "available_memory", lambda: 3_000_000)
    assert hamming_histogram(codes[:1], codes).shape == (4000, 65)  # 2.1 MB
    with pytest.raises(MemoryError) as error:
        hamming_histogram(codes[:1], codes, relevance=(labels[:1], labels))
    assert str(error.value) == (
        "histograms of 65 distances for each of 4,000 queries take 4.2 MB and this machine has "
        "3.0 MB free: ask for less, or for a part of the queries at a time"
    )
    with pytest.raises(MemoryError, match="histograms of 65 distances for each of 8,000 queries"):
        hamming_histogram(codes[:1], np.concatenate([codes, codes]))


CODES = np.zeros((4, 8), np.uint8)
TWO = np.zeros((2, 8), np.uint8)


@pytest.mark.parametrize(
    ("relevance", "error", "message"),
    [
        ([0, 1, 0, 1], TypeError, r"relevance must be \(database_labels, query_labels\), got list"),
        (np.zeros(4, int), TypeError, "got ndarray"),
        (([0, 1, 0], [0, 1]), ValueError, "database_labels must have one row per code, 4"),
        (([0, 1], [0, 1, 0, 1]), ValueError, "database_labels must have one row per code, 4"),
        (([0, 1, 0, 1], [0]), ValueError, "query_labels must have one row per code, 2"),
        (([0.0, 1, 0, 1], [0, 1]), TypeError, "database_labels must be classes, integers"),
        (([0, 1, 0, 1], None), TypeError, "query_labels must be an array"),
        (([0, 1, 0, 1], [0, -1]), ValueError, "classes >= 0, got -1"),
        ((np.eye(4), np.eye(4)[:2, :3]), ValueError, "with the same C"),
        ((np.eye(4), [0, 1]), ValueError, "must both be classes"),
        ((np.eye(4) * 2, np.eye(4)[:2]), ValueError, "zeros and ones only"),
        ((np.array([2**63] * 4, np.uint64), [0, 1]), ValueError, "must fit into int64"),
    ],
)
def test_wrong_labels(relevance, error, message):
    with pytest.raises(error, match=message):
        hamming_histogram(CODES, TWO, relevance=relevance)
