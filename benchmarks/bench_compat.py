"""DeepHash-pytorch's and OrthoHash's mAP: coophash.compat beside the same formula as a plain loop.

    pytest benchmarks/bench_compat.py --benchmark-only --benchmark-columns=median,rounds

1,000 queries, 54,000 items in class order, 48 bits, 10 classes: CIFAR-10 as DeepHash-pytorch splits
it. "raw" codes are all different; "repeating" ones lie close to one code for each class, with about
4 queries to a code. The loop is what such a project runs: for each query an inner product with all
codes and one with all labels, then NumPy's argsort (torch.topk for OrthoHash). Both must first give
one result, to the last digit. The sort must be that very one, so it bounds what can be gained.

Environment:
    COOPHASH_BENCH_QUERIES   (default 1000)
"""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest

from coophash.compat.deephash import CalcTopMap, CalcTopMapWithPR

QUERIES = int(os.environ.get("COOPHASH_BENCH_QUERIES", "1000"))
ITEMS, BITS, CLASSES = 54_000, 48, 10


NOISE = {"raw": 1.5, "repeating": 0.1}


@functools.lru_cache(maxsize=1)
def retrieval(kind):
    """Codes of the database and of the queries, float32 signs, and their one-hot labels, int8."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, BITS))
    codes, labels = [], []
    for rows in (ITEMS, QUERIES):
        classes = np.arange(rows) * CLASSES // rows
        noisy = centres[classes] + NOISE[kind] * rng.normal(size=(rows, BITS))
        codes.append(np.sign(noisy).astype(np.float32))
        labels.append(np.eye(CLASSES, dtype=np.int8)[classes])
    return *codes, *labels


def average_precision(ranked, topk):
    ranks = np.flatnonzero(ranked[:topk]) + 1
    return np.mean(np.arange(1, ranks.size + 1) / ranks) if ranks.size else 0


def ranked_by_argsort(data):
    database, queries, database_labels, query_labels = data
    for query, label in zip(queries, query_labels, strict=True):
        relevant = np.dot(label, database_labels.T) > 0
        yield relevant[np.argsort(0.5 * (BITS - np.dot(query, database.T)))]


def loop_map(data, topk):
    return sum(average_precision(ranked, topk) for ranked in ranked_by_argsort(data)) / len(data[1])


def loop_curves(data, topk):
    """The mAP, precision and recall at each rank, with two dense (Q, N) matrices as is usual."""
    precision, recall = np.zeros((2, len(data[1]), ITEMS))
    values = []
    for row, ranked in enumerate(ranked_by_argsort(data)):
        hits = np.cumsum(ranked.astype(np.float32))
        precision[row], recall[row] = hits / np.arange(1, ITEMS + 1), hits / hits[-1]
        values.append(average_precision(ranked, topk))
    return sum(values) / len(values), precision.mean(axis=0), recall.mean(axis=0)


def loop_by_topk(data, R):
    torch = pytest.importorskip("torch")
    database, queries, database_labels, query_labels = data
    distances = torch.from_numpy(0.5 * (BITS - queries @ database.T))
    nearest = torch.topk(distances, R, dim=1, largest=False)[1].numpy()
    values = []
    for items, label in zip(nearest, query_labels, strict=True):
        hits = np.dot(database_labels[items], label) > 0
        found = np.cumsum(hits)
        values.append(np.sum(found / np.arange(1, R + 1) * hits) / found[-1] if found[-1] else 0)
    return np.mean(values)


def run(benchmark, beside_peers, kind, ours, loop, group):
    for mine, theirs in zip(np.atleast_1d(ours()), np.atleast_1d(loop()), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    benchmark.group = f"{group}: {QUERIES} x {ITEMS}, {BITS} bits"
    benchmark.extra_info.update(queries=QUERIES, rows=ITEMS, bits=BITS, kind=kind)
    beside_peers(ours, {"loop": loop}, pairs=QUERIES * ITEMS, rounds=3)


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("topk", [-1, 1000])
def test_CalcTopMap(benchmark, beside_peers, topk, kind):
    data = retrieval(kind)
    run(
        benchmark,
        beside_peers,
        kind,
        lambda: CalcTopMap(*data, topk),
        lambda: loop_map(data, topk),
        f"CalcTopMap, topk {topk}",
    )


@pytest.mark.parametrize("kind", NOISE)
def test_CalcTopMapWithPR(benchmark, beside_peers, kind):
    data = retrieval(kind)
    database, queries, database_labels, query_labels = data

    def ours():
        found = CalcTopMapWithPR(queries, query_labels, database, database_labels, -1)
        return np.hstack(found)

    loop = lambda: np.hstack(loop_curves(data, -1))  # noqa: E731
    run(benchmark, beside_peers, kind, ours, loop, "CalcTopMapWithPR")


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("R", [1000, ITEMS])
def test_calculate_mAP(benchmark, beside_peers, R, kind):
    torch = pytest.importorskip("torch")
    from coophash.compat.orthohash import calculate_mAP

    data = retrieval(kind)
    database, queries, database_labels, query_labels = (torch.from_numpy(x) for x in data)
    run(
        benchmark,
        beside_peers,
        kind,
        lambda: calculate_mAP(database, database_labels, queries, query_labels, R),
        lambda: loop_by_topk(data, R),
        f"OrthoHash's calculate_mAP, R {R}",
    )
