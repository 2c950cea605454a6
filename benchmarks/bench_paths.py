"""What both ways of a flat search cost, beside the figures that the choice is made from.

    pytest benchmarks/bench_paths.py --benchmark-only -s

Prints, for each instruction set and width, nanoseconds of one thread: `row` a row and a query in
the row scan; `build` a row and `slice` a row and a query in bit slices. The first of each pair is
measured here, the second stands in csrc/cpu/costs.cpp. `from` is the batch at which bit slices
begin to pay. The two ways must first give one result.

Environment:
    COOPHASH_BENCH_WIDTHS   bytes of a code, list (default "3 4 6 8 12 16 24 32 48 64 125 128 512")
"""

from __future__ import annotations

import math
import os
import time

import numpy as np
import pytest

from coophash import _native

LIBRARY = _native.library()
WIDTHS = os.environ.get("COOPHASH_BENCH_WIDTHS", "3 4 6 8 12 16 24 32 48 64 125 128 512")
ISAS = [name for name, why in _native.build_info()["isas"].items() if not why and name != "serial"]
FEW, MANY = 8, 264


def seconds(call, least: float = 0.1) -> float:
    """The shortest of at least three calls."""
    best, end, count = math.inf, time.perf_counter() + least, 0
    while count < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
        count += 1
    return best


def from_batch(row: float, build: float, part: float) -> int | None:
    return math.ceil(build / (row - part)) if row > part else None


@pytest.mark.parametrize("width", [int(x) for x in WIDTHS.split()])
@pytest.mark.parametrize("isa", ISAS)
def test_costs(benchmark, isa, width):
    rng = np.random.default_rng(width)
    rows = max(1 << 15, (1 << 20) // width)  # out of the first-level cache
    database = rng.integers(0, 256, (rows, width), dtype=np.uint8)
    queries = rng.integers(0, 256, (MANY, width), dtype=np.uint8)

    def search(count: int, path: str):
        span = (database, None, 0, None)
        return LIBRARY.topk([span], width, True, queries[:count], 1, 1, isa, path)

    for one, other in zip(search(FEW, "rows"), search(FEW, "slices"), strict=True):
        np.testing.assert_array_equal(one, other)
    measured = {}

    def measure():
        row = seconds(lambda: search(FEW, "rows")) / FEW
        few = seconds(lambda: search(FEW, "slices"))
        many = seconds(lambda: search(MANY, "slices"))
        part = (many - few) / (MANY - FEW)
        in_ns = 1e9 / rows
        measured.update(row=row * in_ns, build=(few - FEW * part) * in_ns, slice=part * in_ns)

    benchmark.pedantic(measure, rounds=1)
    assumed = dict(zip(("row", "build", "slice"), LIBRARY.flat_costs(width, isa), strict=True))
    now, then = from_batch(*measured.values()), from_batch(*assumed.values())
    benchmark.extra_info.update(isa=isa, width=width, measured=measured, assumed=assumed)
    pairs = "  ".join(f"{key} {measured[key]:.3f} / {assumed[key]:.3f}" for key in measured)
    print(f"{isa:7} width {width:3}: {pairs}  from {now} / {then}")
