"""Exact top-k search: every instruction set of coophash beside faiss-cpu.

    pytest benchmarks/bench_search.py --benchmark-only --benchmark-columns=min,median,rounds

Groups are bits x batch x threads; within a group, the providers run one after another on the same
codes. Each provider's distances must first equal an oracle's; a wrong one is not timed.
Gp/s is 1e9 (code, query) pairs a second, GB/s is that times the bytes of a code. `cores` is CPU
time over wall time: where it is below the number of threads the machine was busy with something
else, and neither a loss nor a gain there means anything. (faiss takes one thread for one query.)

Environment:
    COOPHASH_BENCH_ROWS   codes in the database (default 1,000,000; 2 minutes in all on 2 cores)
    COOPHASH_BENCH_BITS, COOPHASH_BENCH_BATCH, COOPHASH_BENCH_K   lists, "32 64 128"
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


def numbers(name: str, default: str) -> list[int]:
    return [int(float(x)) for x in os.environ.get(name, default).replace(",", " ").split()]


ROWS = numbers("COOPHASH_BENCH_ROWS", "1e6")[0]
BITS = numbers("COOPHASH_BENCH_BITS", "32 64 128 256 1000")
BATCHES = numbers("COOPHASH_BENCH_BATCH", "1 16 200")
KS = numbers("COOPHASH_BENCH_K", "10")
CORES = _native.check_threads(None)
ISAS = [name for name, why in _native.build_info()["isas"].items() if not why and name != "serial"]
PROVIDERS = [*(f"coophash-{name}" for name in ISAS or ["serial"]), "faiss-heap", "faiss-count"]
CASES = [("random", bits) for bits in BITS] + [("clustered", 64)]


@functools.lru_cache(maxsize=1)
def codes_of(kind: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Database and queries: uniform bits, or 10,000 centres with 9.4 % of the bits flipped."""
    rng = np.random.default_rng(bits)
    width = (bits + 7) // 8
    total = ROWS + max(BATCHES)
    if kind == "random":
        codes = rng.integers(0, 256, (total, width), dtype=np.uint8)
        codes[:, -1] &= 0xFF >> (-bits % 8)
    else:
        centres = rng.integers(0, 256, (10_000, width), dtype=np.uint8)
        codes = centres[rng.integers(10_000, size=total)]
        for start in range(0, total, 100_000):
            part = codes[start : start + 100_000]
            part ^= ch.pack(rng.random((len(part), 8 * width), dtype=np.float32) < 0.094)
    return codes[:ROWS], codes[ROWS:]


@functools.lru_cache(maxsize=8)
def oracle(kind: str, bits: int, query: int, k: int) -> np.ndarray:
    """The k smallest distances of one query, (k,), by counting every byte and sorting."""
    database, queries = codes_of(kind, bits)
    table = np.array([bin(i).count("1") for i in range(256)], np.uint8)
    distances = np.zeros(ROWS, np.int32)
    for byte in range(database.shape[1]):
        distances += table[database[:, byte] ^ queries[query, byte]]
    return np.sort(np.partition(distances, min(k, ROWS - 1))[:k])


def searcher(provider: str, kind: str, bits: int, batch: int, threads: int, k: int, monkeypatch):
    """A call without arguments that searches and returns (distances, ids)."""
    database, queries = codes_of(kind, bits)
    queries = queries[:batch]
    name, _, variant = provider.partition("-")
    if name == "coophash":
        monkeypatch.setenv("COOPHASH_ISA", variant)
        index = ch.HammingIndex(8 * database.shape[1], threads=threads)
        index.add(database)
        return lambda: index.search(queries, k)
    index = faiss.IndexBinaryFlat(8 * database.shape[1])
    index.add(database)
    index.use_heap = variant == "heap"
    faiss.omp_set_num_threads(threads)
    return lambda: index.search(queries, k)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("threads", sorted({1, CORES}))
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_topk(benchmark, monkeypatch, kind, bits, batch, threads, k, provider):
    search = searcher(provider, kind, bits, batch, threads, k, monkeypatch)
    began = time.perf_counter()
    distances, _ = search()
    took = time.perf_counter() - began
    for query in {0, batch - 1}:
        np.testing.assert_array_equal(distances[query], oracle(kind, bits, query, k))

    # At most half a second a provider and at least 3 rounds: the grid is large.
    rounds = int(min(15, max(3, 0.5 / took)))
    usage = []

    def timed():
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        search()
        usage.append((time.process_time() - cpu_start) / (time.perf_counter() - wall_start))

    benchmark.group = f"{bits} bits, {kind}, batch {batch}, {threads} threads, k {k}"
    benchmark.pedantic(timed, rounds=rounds, warmup_rounds=1)
    pairs = ROWS * batch
    width = (bits + 7) // 8
    benchmark.extra_info.update(
        provider=provider,
        rows=ROWS,
        bits=bits,
        kind=kind,
        batch=batch,
        threads=threads,
        k=k,
        cores=round(float(np.median(usage)), 2),
    )
    if benchmark.stats is not None:  # None under --benchmark-disable
        median = benchmark.stats.stats.median
        benchmark.extra_info["Gp/s"] = round(pairs / median / 1e9, 3)
        benchmark.extra_info["GB/s"] = round(pairs * width / median / 1e9, 2)
        benchmark.extra_info["queries/s"] = round(batch / median, 1)
