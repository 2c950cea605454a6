"""10^8 codes of 64 bits: built, saved, opened and searched inside 8 GiB.

    pytest benchmarks/bench_large.py --benchmark-only -s

A process of its own does it under a limit of its address space (RLIMIT_AS), so that more memory
than that cannot have been used, and reports the most that was resident. Some results are compared
with faiss' over slices of the database, merged by (distance, id).

Environment:
    COOPHASH_BENCH_ROWS    codes (default 100,000,000)
    COOPHASH_BENCH_GIB     the limit (default 8)
    COOPHASH_BENCH_METHOD  "flat mih" or one of them
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ROWS = int(float(os.environ.get("COOPHASH_BENCH_ROWS", "1e8")))
GIB = float(os.environ.get("COOPHASH_BENCH_GIB", "8"))
METHODS = os.environ.get("COOPHASH_BENCH_METHOD", "flat mih").split()

PROGRAM = """
import json, resource, sys, tempfile, time

import numpy as np

import coophash as ch

rows, limit, method = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
rng = np.random.default_rng(0)
queries = rng.integers(0, 256, (1000, 8), dtype=np.uint8)
index = ch.HammingIndex(64, method=method)
part = 5_000_000
began = time.perf_counter()
making = 0.0
for start in range(0, rows, part):
    before = time.perf_counter()
    codes = np.random.default_rng([1, start]).integers(
        0, 256, (min(part, rows - start), 8), dtype=np.uint8
    )
    making += time.perf_counter() - before
    index.add(codes)
out = {"add_s": time.perf_counter() - began - making}

def search(count, k=10):
    began = time.perf_counter()
    found = index.search(queries[:count], k)
    return time.perf_counter() - began, found

out["first_s"] = search(1)[0]  # builds the tables of method="mih"
for batch in (1, 16, 200, 1000):
    times = sorted(search(batch)[0] for _ in range(5 if batch < 200 else 3))
    out[f"batch_{batch}_s"] = times[len(times) // 2]
with tempfile.TemporaryDirectory() as folder:
    index.save(folder + "/index")
    opened = ch.HammingIndex.open(folder + "/index")
    found = opened.search(queries[:4], 10)
distances, ids = search(4)[1]
assert np.array_equal(found[0], distances) and np.array_equal(found[1], ids)
out["distances"], out["ids"] = distances.tolist(), ids.tolist()
out["nbytes"] = index.nbytes
out["resident_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(out))
"""


def expected(rows: int) -> tuple[list[list[int]], list[list[int]]]:
    """The 10 nearest by faiss, a slice of the database at a time."""
    faiss = pytest.importorskip("faiss")
    import numpy as np

    queries = np.random.default_rng(0).integers(0, 256, (1000, 8), dtype=np.uint8)[:4]
    best: list[list[tuple[int, int]]] = [[] for _ in queries]
    for start in range(0, rows, 5_000_000):
        codes = np.random.default_rng([1, start]).integers(
            0, 256, (min(5_000_000, rows - start), 8), dtype=np.uint8
        )
        index = faiss.IndexBinaryFlat(64)
        index.add(codes)
        # far more than 10, so that those of the smallest ids are among the ties
        distances, ids = index.search(queries, 1000)
        for q, pairs in enumerate(best):
            found = zip(distances[q].tolist(), (ids[q] + start).tolist(), strict=True)
            best[q] = sorted([*pairs, *found])[:10]
    return [[d for d, _ in pairs] for pairs in best], [[i for _, i in pairs] for pairs in best]


@pytest.mark.parametrize("method", METHODS)
def test_in_8_gib(benchmark, method):
    def run():
        command = [sys.executable, "-c", PROGRAM, str(ROWS), str(int(GIB * 2**30)), method]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    out = benchmark.pedantic(run, rounds=1)
    distances, ids = expected(ROWS)
    assert out.pop("distances") == distances
    assert out.pop("ids") == ids
    benchmark.extra_info.update(rows=ROWS, bits=64, method=method, limit_gib=GIB, **out)
    for batch in (1, 16, 200, 1000):
        benchmark.extra_info[f"batch_{batch}_Gp/s"] = ROWS * batch / out[f"batch_{batch}_s"] / 1e9
    print("\n" + json.dumps(benchmark.extra_info, indent=1))
