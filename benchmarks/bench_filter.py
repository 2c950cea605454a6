"""Filtered search beside the same search without a filter.

    pytest benchmarks/bench_filter.py --benchmark-only --benchmark-columns=min,rounds

`ratio` is the time without a filter over the time with it, in the same round: 1 where a filter
costs nothing, more where it makes the search faster. Filters are given as a bool mask, and the
most selective ones also as ids. Results must first equal a search of the rows that are left.

Environment:
    COOPHASH_BENCH_ROWS   codes in the database, a list (default "1e6 1e7"; 3 minutes)
    COOPHASH_BENCH_BATCH  queries, a list (default "1 16 200")
"""

from __future__ import annotations

import functools
import os
import time

import numpy as np
import pytest

import coophash as ch

ROWS = [int(float(x)) for x in os.environ.get("COOPHASH_BENCH_ROWS", "1e6 1e7").split()]
BATCHES = [int(x) for x in os.environ.get("COOPHASH_BENCH_BATCH", "1 16 200").split()]
K = 10
FILTERS = [
    *[("mask", share) for share in (1.0, 0.99, 0.5, 0.1, 0.01, 0.0001)],
    *[("ids", share) for share in (0.01, 0.0001)],
]


@functools.lru_cache(maxsize=1)
def codes_of(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    codes = rng.integers(0, 256, (rows + max(BATCHES), 8), dtype=np.uint8)
    return codes[:rows], codes[rows:]


@pytest.mark.parametrize("threads", [1])
@pytest.mark.parametrize(("form", "share"), FILTERS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("rows", ROWS)
def test_filter(benchmark, beside_peers, rows, batch, form, share, threads):
    database, queries = codes_of(rows)
    queries = queries[:batch]
    mask = np.random.default_rng(1).random(rows) < share
    left = np.flatnonzero(mask)
    allow = mask if form == "mask" else left

    def search():
        return ch.hamming_topk(database, queries, K, allow=allow, threads=threads)

    began = time.perf_counter()
    distances, ids = search()
    took = time.perf_counter() - began
    expected = ch.hamming_topk(database[left], queries, K, threads=threads)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(ids, left[expected[1]])

    benchmark.group = f"{rows} x 64 bits, batch {batch}, {threads} threads"
    benchmark.extra_info.update(rows=rows, batch=batch, form=form, share=share, threads=threads)
    beside_peers(
        search,
        {"no filter": lambda: ch.hamming_topk(database, queries, K, threads=threads)},
        pairs=rows * batch,
        rounds=int(min(15, max(5, 0.5 / took))),
    )
