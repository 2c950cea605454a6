"""Multi-index hashing beside our own flat search and faiss-cpu's: exact top-k of 64-bit codes.

    pytest benchmarks/bench_mih.py --benchmark-only --benchmark-columns=median,rounds
    python benchmarks/table.py benchmarks/results/latest.json bench_mih

In each round the peers run before ours, on the same codes and queries; `ratios` has each of them.
faiss searches in the faster of its modes, heap and counting, of which five queries tell. First,
results must equal the flat search's bit for bit, and faiss' distances: a wrong search is not timed.
Batch 1 is 10 queries one after another, a call each. `flat` is the share of the queries that
multi-index hashing left to the flat search, `bytes` the memory for a code, the code included.

Codes: "random"; "clustered", 10,000 centres with 9.4 % of the bits flipped; "collapsed-10" and
"collapsed-1000", so many different codes, all with copies, as learned codes can be. Queries are
drawn likewise.

Environment:
    COOPHASH_BENCH_ROWS   codes in the database (default 10,000,000; 4 minutes in all on 2 cores)
    COOPHASH_BENCH_K, COOPHASH_BENCH_BATCH, COOPHASH_BENCH_THREADS   lists, "1 10 100"
    COOPHASH_BENCH_CODES  a list of kinds
"""

from __future__ import annotations

import functools
import os
import time

import numpy as np
import pytest

import coophash as ch
from coophash import _native

faiss = pytest.importorskip("faiss")

BITS = 64
SINGLE = 10  # queries of "batch 1"


def numbers(name: str, default: str) -> list[int]:
    return [int(float(x)) for x in os.environ.get(name, default).replace(",", " ").split()]


ROWS = numbers("COOPHASH_BENCH_ROWS", "1e7")[0]
BATCHES = numbers("COOPHASH_BENCH_BATCH", "1 200")
KS = numbers("COOPHASH_BENCH_K", "1 10 100")
THREADS = numbers("COOPHASH_BENCH_THREADS", str(_native.check_threads(None)))
KINDS = os.environ.get(
    "COOPHASH_BENCH_CODES", "random clustered collapsed-10 collapsed-1000"
).split()


@functools.lru_cache(maxsize=1)
def codes_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Database and queries."""
    rng = np.random.default_rng(0)
    total = ROWS + max(*BATCHES, SINGLE)
    if kind == "random":
        codes = rng.integers(0, 256, (total, BITS // 8), dtype=np.uint8)
    else:
        distinct = 10_000 if kind == "clustered" else int(kind.partition("-")[2])
        centres = rng.integers(0, 256, (distinct, BITS // 8), dtype=np.uint8)
        codes = centres[rng.integers(distinct, size=total)]
    if kind == "clustered":
        for start in range(0, total, 100_000):
            part = codes[start : start + 100_000]
            part ^= ch.pack(rng.random((len(part), BITS), dtype=np.float32) < 0.094)
    return codes[:ROWS], codes[ROWS:]


@functools.lru_cache(maxsize=1)
def indexes_of(kind: str):
    """With tables, flat, and faiss'; and how long building the tables took."""
    database, queries = codes_of(kind)
    flat, tables = ch.HammingIndex(BITS), ch.HammingIndex(BITS, "mih")
    peer = faiss.IndexBinaryFlat(BITS)
    for index in (flat, tables, peer):
        index.add(database)
    began = time.perf_counter()
    tables.search(queries[:1], 1)
    return tables, flat, peer, time.perf_counter() - began


def faster_mode(peer, queries: np.ndarray, k: int) -> tuple[str, float]:
    """The faster of faiss' two modes and its seconds a query."""
    seconds = {}
    for name in ("faiss-heap", "faiss-count"):
        peer.use_heap = name == "faiss-heap"
        began = time.perf_counter()
        peer.search(queries, k)
        seconds[name] = (time.perf_counter() - began) / len(queries)
    best = min(seconds, key=lambda name: seconds[name])
    return best, seconds[best]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("kind", KINDS)
def test_mih(benchmark, beside_peers, kind, k, threads, batch):
    tables, flat, peer, build_seconds = indexes_of(kind)
    queries = codes_of(kind)[1]
    calls = [queries[i : i + 1] for i in range(SINGLE)] if batch == 1 else [queries[:batch]]
    tables.threads = flat.threads = threads
    faiss.omp_set_num_threads(threads)

    def run(search):
        return [search(part, k) for part in calls]

    mode, faiss_seconds = faster_mode(peer, queries[:5], k)

    def faiss_search():
        peer.use_heap = mode == "faiss-heap"
        return run(peer.search)

    before = tables._tables.stats()
    found, expected = run(tables.search), run(flat.search)
    after = tables._tables.stats()
    for ours, theirs, others in zip(found, expected, faiss_search(), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[0], others[0])

    benchmark.group = f"{kind}, k {k}, batch {batch}, {threads} threads"
    asked = sum(len(part) for part in calls)
    benchmark.extra_info.update(
        rows=ROWS,
        bits=BITS,
        kind=kind,
        k=k,
        batch=batch,
        threads=threads,
        flat=(after["flat"] - before["flat"]) / (after["queries"] - before["queries"]),
        bytes=tables.nbytes / ROWS,
        build_seconds=build_seconds,
        substrings=[level["substrings"] for level in after["levels"]],
    )
    beside_peers(
        lambda: run(tables.search),
        {
            "coophash-flat": lambda: run(flat.search),
            mode: faiss_search,
        },
        pairs=ROWS * asked,
        rounds=int(min(10, max(2, 1.5 / (asked * faiss_seconds)))),
    )
    if "seconds" in benchmark.extra_info:
        median = benchmark.extra_info["seconds"]["ours"][1]
        benchmark.extra_info["queries/s"] = asked / median
