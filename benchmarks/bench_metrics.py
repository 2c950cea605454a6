"""Retrieval metrics and whole rankings beside NumPy.

    pytest benchmarks/bench_metrics.py --benchmark-only --benchmark-columns=min,rounds
    COOPHASH_BENCH_HUGE=1 pytest benchmarks/bench_metrics.py --benchmark-only -k huge

mAP over all 54,000 items for 1,000 queries of 48 bits, with 10 classes and with 21 and 80 labels
that items have some of: beside the loop over queries that hashing projects use (a float product, an
argsort, the precisions at the hits). Not timed before both give the same value, with ties in the
order of the database, and the mean over the orders of ties equals sums written out. `peak_MB` is
what a process of its own takes beyond its inputs, and `traced_MB` what Python's allocator sees of
it; both must stay below 100.

Environment:
    COOPHASH_BENCH_HUGE   also 10,000 queries x 1,000,000 items of 64 bits, once, with `rss_MB`, all
                          that the process ever held
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import coophash as ch
from coophash import _native, metrics

QUERIES, ITEMS, BITS, CLASSES = 1000, 54_000, 48, 10
CORES = _native.check_threads(None)
KINDS = ("classes", "21 labels", "80 labels")

# Not getrusage: its peak outlives exec, so it would be that of the process which started this one.
PEAK = """
import sys, tracemalloc
import numpy as np
from coophash import metrics

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(field))

case = np.load(sys.argv[1])
args = [case[name] for name in ("queries", "database", "query_labels", "database_labels")]
metrics.mean_average_precision(*(x[:2] for x in args))  # code is loaded, threads are there
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = resident("VmRSS")
metrics.mean_average_precision(*args)
peak = resident("VmHWM") - before
tracemalloc.start()
metrics.mean_average_precision(*args)
print(peak, tracemalloc.get_traced_memory()[1])
"""


@functools.lru_cache(maxsize=1)
def retrieval(queries: int, items: int, bits: int) -> tuple[np.ndarray, ...]:
    """Codes around one centre a class, with a fifth of the bits flipped, and the classes."""
    rng = np.random.default_rng(bits)
    centres = rng.random((CLASSES, bits)) < 0.5
    sides = []
    for count in (queries, items):
        labels = rng.integers(0, CLASSES, count)
        codes = np.empty((count, bits // 8), np.uint8)
        for start in range(0, count, 100_000):
            part = slice(start, start + 100_000)
            signs = centres[labels[part]]
            codes[part] = ch.pack(signs ^ (rng.random(signs.shape, dtype=np.float32) < 0.2))
        sides.append((codes, labels))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def labelled(kind: str, queries: int, items: int, bits: int) -> tuple[np.ndarray, ...]:
    """The same codes with classes, or with that many labels, three of them for most items."""
    case = retrieval(queries, items, bits)
    if kind == "classes":
        return case
    labels, rng = int(kind.split()[0]), np.random.default_rng(0)
    sides = [np.eye(labels, dtype=bool)[x % labels] for x in case[2:]]
    for side in sides:
        side |= rng.random(side.shape, dtype=np.float32) < 2 / labels
    return *case[:2], *sides


def is_relevant(label, database_labels) -> np.ndarray:
    if database_labels.ndim == 1:
        return database_labels == label
    return label @ database_labels.T > 0


def loop(signs, query_labels, database_signs, database_labels, kind=None) -> float:
    """Mean average precision by sorting, query after query. Multi-hot labels: floats, as there."""
    total = 0.0
    for code, label in zip(signs, query_labels, strict=True):
        distances = 0.5 * (code.size - code @ database_signs.T)
        relevant = is_relevant(label, database_labels)[np.argsort(distances, kind=kind)]
        ranks = np.flatnonzero(relevant) + 1.0
        if ranks.size:
            total += np.mean(np.arange(1, ranks.size + 1) / ranks)
    return total / len(signs)


def averaged_over_ties(distances: np.ndarray, relevant: np.ndarray) -> float:
    """Average precision of one query, its mean over all orders of the items at one distance."""
    total = before = hits = 0.0
    for distance in np.unique(distances):
        here = distances == distance
        t, r = int(here.sum()), int(relevant[here].sum())
        place = np.arange(t)
        more = (r - 1) / (t - 1) if t > 1 else 0.0  # relevant items before it in the group, each
        if r:
            total += r / t * ((hits + 1 + place * more) / (before + 1 + place)).sum()
        before, hits = before + t, hits + r
    return float(total / hits)


def seen_memory(case, folder) -> dict[str, float]:
    """What the computation takes in a process of its own, in MB; empty where it cannot be told."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return {}
    names = ("queries", "database", "query_labels", "database_labels")
    np.savez(folder / "case.npz", **dict(zip(names, case, strict=True)))
    command = [sys.executable, "-c", PEAK, str(folder / "case.npz")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, traced = (int(x) / 1e6 for x in done.stdout.split())
    assert traced > 0 and max(peak, traced) < 100
    return {"peak_MB": peak, "traced_MB": traced}


@pytest.mark.parametrize("kind", KINDS)
def test_mean_average_precision(benchmark, beside_peers, tmp_path, kind):
    queries, database, ours, theirs = case = labelled(kind, QUERIES, ITEMS, BITS)
    floats = [ch.unpack(codes, BITS).astype(np.float32) for codes in (queries, database)]
    wide = [x if x.ndim == 1 else x.astype(np.float32) for x in (ours, theirs)]
    some = (floats[0][:50], wide[0][:50], floats[1], wide[1])
    stable = metrics.mean_average_precision(
        queries[:50], database, ours[:50], theirs, ties="stable"
    )
    assert abs(stable - loop(*some, kind="stable")) < 1e-9
    values = metrics.average_precision(queries[:5], database, ours[:5], theirs)
    distances = ch.hamming_distances(queries[:5], database)
    expected = [
        averaged_over_ties(d, is_relevant(c, wide[1]))
        for d, c in zip(distances, wide[0], strict=False)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-9)

    benchmark.group = f"mAP@all, {QUERIES} x {ITEMS}, {BITS} bits"
    benchmark.extra_info.update(seen_memory(case, tmp_path))
    benchmark.extra_info.update(bits=BITS, batch=QUERIES, rows=ITEMS, threads=CORES)
    beside_peers(
        lambda: metrics.mean_average_precision(*case),
        {"loop": lambda: loop(floats[0], wide[0], floats[1], wide[1])},
        pairs=QUERIES * ITEMS,
        rounds=3,
    )


@pytest.mark.parametrize("labels", ["none", "classes", "multi-hot"])
def test_histogram(benchmark, labels):
    queries, database, ours, theirs = retrieval(QUERIES, ITEMS, BITS)
    rng = np.random.default_rng(0)
    multi = [
        np.eye(CLASSES, dtype=bool)[x] | (rng.random((len(x), CLASSES)) < 0.1)
        for x in (theirs, ours)
    ]
    relevance = {"none": None, "classes": (theirs, ours), "multi-hot": tuple(multi)}[labels]

    def count():
        return ch.search.hamming_histogram(database, queries, BITS, relevance=relevance, threads=1)

    found = count()
    total = found if relevance is None else found[0]
    distances = ch.hamming_distances(queries[:3], database)
    for q in range(3):
        np.testing.assert_array_equal(total[q], np.bincount(distances[q], minlength=BITS + 1))
        if relevance is not None:
            same = theirs == ours[q] if labels == "classes" else (multi[0] & multi[1][q]).any(1)
            part = np.bincount(distances[q][same], minlength=BITS + 1)
            np.testing.assert_array_equal(found[1][q], part)
    benchmark.group = f"histograms, {QUERIES} x {ITEMS}, {BITS} bits, 1 thread"
    benchmark.pedantic(count, rounds=9, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["Gp/s"] = QUERIES * ITEMS / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("part", [64, 4, 1])
def test_large_k(benchmark, beside_peers, part):
    """The N / part nearest: beside sorting all distances, 16-bit numbers, stably (by radix)."""
    queries, database, _, _ = retrieval(QUERIES, ITEMS, BITS)
    queries, k = queries[:64], ITEMS // part

    def by_sorting():
        distances = ch.hamming_distances(queries, database).astype(np.uint16)
        return np.argsort(distances, axis=1, kind="stable")[:, :k]

    np.testing.assert_array_equal(ch.hamming_topk(database, queries, k)[1], by_sorting())
    benchmark.group = f"k = {k} of {ITEMS}, {BITS} bits"
    beside_peers(
        lambda: ch.hamming_topk(database, queries, k),
        {"argsort": by_sorting},
        pairs=len(queries) * ITEMS,
        rounds=7,
    )


@pytest.mark.skipif(not os.environ.get("COOPHASH_BENCH_HUGE"), reason="COOPHASH_BENCH_HUGE=1")
@pytest.mark.parametrize("kind", KINDS)
def test_huge(benchmark, kind):
    case = labelled(kind, 10_000, 1_000_000, 64)
    value = benchmark.pedantic(lambda: metrics.mean_average_precision(*case), rounds=1)
    some = metrics.average_precision(case[0][:2], case[1], case[2][:2], case[3])
    distances = ch.hamming_distances(case[0][:2], case[1])
    for q in range(2):
        wide = case[3] if kind == "classes" else case[3].astype(np.float32)
        expected = averaged_over_ties(distances[q], is_relevant(case[2][q], wide))
        assert abs(some[q] - expected) < 1e-9
    assert 0 < value < 1
    benchmark.extra_info.update(bits=64, batch=10_000, rows=1_000_000, threads=CORES)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        benchmark.extra_info["rss_MB"] = int(line.split()[1]) * 1024 / 1e6
