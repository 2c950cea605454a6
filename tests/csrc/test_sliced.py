"""Bit slices against the row scan of the reference, on every instruction set that has them.

The rows of a group and the queries are few here, and the way of searching is forced: left to itself
the search takes bit slices only where they are quicker.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coophash import _native

LIBRARY = _native.library()
ISAS = [name for name, missing in _native.build_info()["isas"].items() if not missing]
WIDTHS = [*range(1, 35), 47, 48, 49, 63, 64, 65, 125, 128, 129, 255, 256, 257, 511, 512]


def topk(spans, width, queries, k, isa, path, threads=1, increasing=True):
    return LIBRARY.topk(spans, width, increasing, queries, k, threads, isa, path)


def codes(rng, kind: str, rows: int, width: int) -> np.ndarray:
    if kind == "random":
        return rng.integers(0, 256, (rows, width), dtype=np.uint8)
    centres = rng.integers(0, 256, (7, width), dtype=np.uint8)
    found = centres[rng.integers(7, size=rows)]
    if kind == "clustered":
        flips = rng.integers(0, 256, (4, rows, width), dtype=np.uint8)
        found ^= np.bitwise_and.reduce(flips, axis=0)
    return found


@pytest.mark.parametrize("kind", ["random", "clustered", "collapsed"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("isa", ISAS)
def test_slices_equal_rows(isa, width, kind):
    rng = np.random.default_rng(width)
    rows = int(rng.integers(1500, 3500))
    database = codes(rng, kind, rows, width)
    # near the database, on it, its complement (the greatest distance), and anywhere
    queries = np.concatenate(
        [database[:3] ^ 1, database[:2], ~database[-2:], codes(rng, "random", 4, width)]
    )
    span = (database, None, 5, None)
    for k in (1, 10, rows // 3):
        expected = topk([span], width, queries, k, "serial", "rows")
        found = topk([span], width, queries, k, isa, "slices", threads=2)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_problem(data):
    isa = data.draw(st.sampled_from(ISAS))
    width = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kind = data.draw(st.sampled_from(["random", "clustered", "collapsed"]))
    spans, first = [], 0
    for rows in data.draw(st.lists(st.integers(0, 2500), min_size=1, max_size=3)):
        given_ids = data.draw(st.booleans())
        ids = first + rng.permutation(rows).astype(np.int64) if given_ids else None
        allow = None
        if data.draw(st.booleans()):
            mask = np.zeros((rows + 63) // 64 * 64, bool)
            mask[:rows] = rng.random(rows) < data.draw(st.sampled_from([0.05, 0.6, 0.99]))
            allow = np.packbits(mask, bitorder="little").view(np.uint64)
        spans.append((codes(rng, kind, rows, width), ids, first, allow))
        first += rows
    increasing = all(ids is None for _, ids, _, _ in spans)
    queries = codes(rng, kind, data.draw(st.integers(1, 20)), width)
    k = data.draw(st.sampled_from([1, 5, 100, 1000]))
    expected = topk(spans, width, queries, k, "serial", "rows", increasing=increasing)
    threads = data.draw(st.sampled_from([1, 2, 3]))
    found = topk(spans, width, queries, k, isa, "slices", threads, increasing)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_an_unknown_path():
    database = np.zeros((1, 1), np.uint8)
    with pytest.raises(ValueError, match="path"):
        topk([(database, None, 0, None)], 1, database, 1, "serial", "columns")
