"""One query over codes in main memory: how near the search comes to the memory's speed.

    pytest benchmarks/bench_memory.py --benchmark-only --benchmark-columns=median,rounds
    python benchmarks/table.py benchmarks/results/latest.json

The limit is measured in the same rounds: all bytes of the same codes are read and XORed, by as many
threads in the same pieces. The search is checked against faiss before it is timed.

Environment:
    COOPHASH_BENCH_BYTES   of codes (default 800,000,000; must be far more than the caches hold)
    COOPHASH_BENCH_BITS    list (default "32 64 128 256 512")
"""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest

import coophash as ch
from coophash import _native

faiss = pytest.importorskip("faiss")

BYTES = int(float(os.environ.get("COOPHASH_BENCH_BYTES", "8e8"))) // 4096 * 4096
BITS = [int(x) for x in os.environ.get("COOPHASH_BENCH_BITS", "32 64 128 256 512").split()]
CORES = _native.check_threads(None)
ISAS = [name for name, why in _native.build_info()["isas"].items() if not why and name != "serial"]


@functools.lru_cache(maxsize=1)
def words() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, BYTES // 8, dtype=np.uint64)


@functools.lru_cache(maxsize=1)
def faiss_index(bits: int):
    index = faiss.IndexBinaryFlat(bits)
    index.add(words().view(np.uint8).reshape(-1, bits // 8))
    return index


@pytest.mark.parametrize("isa", ISAS or ["serial"])
@pytest.mark.parametrize("threads", sorted({1, CORES}))
@pytest.mark.parametrize("bits", BITS)
def test_one_query(benchmark, beside_peers, monkeypatch, bits, threads, isa):
    monkeypatch.setenv("COOPHASH_ISA", isa)
    database = words().view(np.uint8).reshape(-1, bits // 8)
    query = database[-1:] ^ 5
    peer = faiss_index(bits)
    faiss.omp_set_num_threads(threads)

    def faiss_search(use_heap: bool):
        peer.use_heap = use_heap
        return peer.search(query, 10)

    distances, _ = ch.hamming_topk(database, query, 10, threads=threads)
    np.testing.assert_array_equal(distances, faiss_search(True)[0])
    assert _native.library().read_memory(words(), threads) == np.bitwise_xor.reduce(words())

    benchmark.group = f"{bits} bits, {threads} threads"
    benchmark.extra_info.update(
        isa=isa, rows=len(database), bits=bits, kind="random", batch=1, threads=threads, k=10
    )
    beside_peers(
        lambda: ch.hamming_topk(database, query, 10, threads=threads),
        {"faiss-heap": lambda: faiss_search(True), "faiss-count": lambda: faiss_search(False)},
        limit=lambda: _native.library().read_memory(words(), threads),
        pairs=len(database),
        rounds=9,
    )
    if benchmark.stats is not None:
        seconds = benchmark.extra_info["seconds"]
        benchmark.extra_info["GB/s"] = {name: BYTES / s[1] / 1e9 for name, s in seconds.items()}
