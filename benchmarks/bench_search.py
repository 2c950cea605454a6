"""Exact top-k search beside faiss-cpu: every instruction set, codes of many lengths.

    pytest benchmarks/bench_search.py --benchmark-only --benchmark-columns=median,rounds
    python benchmarks/table.py benchmarks/results/latest.json

In each round faiss' two modes, heap and counting, run before coophash, on the same codes; the
ratio is against the faster of them. First, the distances must equal an oracle's: a wrong search is
not timed. Gp/s is 1e9 (code, query) pairs a second. (faiss takes one thread for one query.)

Environment:
    COOPHASH_BENCH_ROWS   codes in the database (default 1,000,000; 15 minutes in all on 2 cores)
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
BITS = numbers("COOPHASH_BENCH_BITS", "32 48 64 100 128 256 512 1000")
BATCHES = numbers("COOPHASH_BENCH_BATCH", "1 16 200 1000")
KS = numbers("COOPHASH_BENCH_K", "10")
CORES = _native.check_threads(None)
ISAS = [name for name, why in _native.build_info()["isas"].items() if not why and name != "serial"]
CELLS = [
    (kind, bits, batch)
    for bits in BITS
    for kind in ("random", "clustered")
    for batch in BATCHES
    # a thousand queries over long codes take faiss half a minute
    if batch < 1000 or bits <= 64
]


@functools.lru_cache(maxsize=1)
def codes_of(kind: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Database and queries: uniform bits, or 10,000 centres with 9.4 % of the bits flipped."""
    rng = np.random.default_rng(bits)
    width = (bits + 7) // 8
    total = ROWS + max(BATCHES)
    if kind == "random":
        codes = rng.integers(0, 256, (total, width), dtype=np.uint8)
    else:
        centres = rng.integers(0, 256, (10_000, width), dtype=np.uint8)
        codes = centres[rng.integers(10_000, size=total)]
        for start in range(0, total, 100_000):
            part = codes[start : start + 100_000]
            part ^= ch.pack(rng.random((len(part), 8 * width), dtype=np.float32) < 0.094)
    codes[:, -1] &= 0xFF >> (-bits % 8)
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


@functools.lru_cache(maxsize=1)
def faiss_index(kind: str, bits: int):
    database, _ = codes_of(kind, bits)
    index = faiss.IndexBinaryFlat(8 * database.shape[1])
    index.add(database)
    return index


@pytest.mark.parametrize("isa", ISAS or ["serial"])
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("threads", sorted({1, CORES}))
@pytest.mark.parametrize(("kind", "bits", "batch"), CELLS)
def test_topk(benchmark, beside_peers, monkeypatch, kind, bits, batch, threads, k, isa):
    monkeypatch.setenv("COOPHASH_ISA", isa)
    database, queries = codes_of(kind, bits)
    queries = queries[:batch]
    index = ch.HammingIndex(8 * database.shape[1], threads=threads)
    index.add(database)
    peer = faiss_index(kind, bits)
    faiss.omp_set_num_threads(threads)

    def faiss_search(use_heap: bool):
        peer.use_heap = use_heap
        return peer.search(queries, k)

    began = time.perf_counter()
    found = {"coophash": index.search(queries, k), "faiss": faiss_search(True)}
    took = time.perf_counter() - began
    for distances, _ in found.values():
        for query in {0, batch - 1}:
            np.testing.assert_array_equal(distances[query], oracle(kind, bits, query, k))

    benchmark.group = f"{bits} bits, {kind}, batch {batch}, {threads} threads, k {k}"
    benchmark.extra_info.update(
        isa=isa, rows=ROWS, bits=bits, kind=kind, batch=batch, threads=threads, k=k
    )
    beside_peers(
        lambda: index.search(queries, k),
        {"faiss-heap": lambda: faiss_search(True), "faiss-count": lambda: faiss_search(False)},
        pairs=ROWS * batch,
        rounds=int(min(15, max(3, 1.0 / took))),
    )
