"""Multi-index hashing: bit for bit what the flat search gives, and when it gives the work to it."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import coophash as ch
from coophash import _memory, _native
from coophash._mih import Snapshot

ISAS = [name for name, missing in _native.build_info()["isas"].items() if not missing]
SEEDS = st.integers(0, 2**32 - 1)


def make_codes(rng, rows: int, bits: int, kind: str) -> np.ndarray:
    """Uniform codes, codes around ten centres, or few different codes with many copies."""
    if kind == "uniform":
        outputs = rng.random((rows, bits)) < 0.5
    else:
        centres = rng.random((10 if kind == "clustered" else rng.integers(1, 30), bits)) < 0.5
        outputs = centres[rng.integers(0, len(centres), rows)]
        if kind == "clustered":
            outputs ^= rng.random((rows, bits)) < rng.choice([0.01, 0.05, 0.2])
    return ch.pack(outputs)


def make_queries(rng, codes: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Codes of the database with some bits flipped."""
    flips = ch.pack(rng.random((count, bits)) < rng.choice([0, 0.02, 0.1, 0.5]))
    return codes[rng.integers(0, len(codes), count)] ^ flips if len(codes) else flips


def forced(index: ch.HammingIndex, substrings: int = -1, scale: float = math.inf) -> None:
    """Tables for any number of rows, and no way out of them."""
    index._tables.substrings = substrings
    index._tables.scale = scale
    index._tables.min_rows = 1


def pair(bits: int, substrings: int = -1, scale: float = math.inf, threads: int | None = 1):
    """A flat index and one with tables."""
    indexes = ch.HammingIndex(bits, threads=threads), ch.HammingIndex(bits, "mih", threads=threads)
    forced(indexes[1], substrings, scale)
    return indexes


def assert_equal(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@contextlib.contextmanager
def instruction_set(name: str):
    before = os.environ.get("COOPHASH_ISA")
    os.environ["COOPHASH_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("COOPHASH_ISA")
        if before is not None:
            os.environ["COOPHASH_ISA"] = before


def interesting_ks(flat: ch.HammingIndex, queries: np.ndarray, rows: int, rng) -> set[int]:
    """k at the ends of ties of a query, one below and one above, and beyond all rows."""
    distances = flat.search(queries[:1], rows + 1)[0][0]
    ends = np.flatnonzero(np.diff(distances)) + 1
    some = rng.choice(ends, min(3, ends.size), replace=False).tolist() if ends.size else []
    return {0, 1, 2, 10, rows, rows + 3} | {k + step for k in some for step in (-1, 0, 1)}


def check_case(seed, bits, rows, kind, substrings, scale, threads, parts, ordered, filtered, isa):
    rng = np.random.default_rng(seed)
    flat, tables = pair(bits, substrings, scale, threads)
    codes = make_codes(rng, rows, bits, kind)
    ids = rng.permutation(10**6)[:rows]
    ids = np.sort(ids) if ordered else ids
    queries = make_queries(rng, codes, bits, int(rng.integers(1, 9)))
    with instruction_set(isa):
        for part in np.array_split(np.arange(rows), parts):
            for index in (flat, tables):
                index.add(codes[part], ids[part])
            if rng.random() < 0.5:
                assert_equal(tables.search(queries[:1], 5), flat.search(queries[:1], 5))
            if part.size and rng.random() < 0.3:
                gone = rng.choice(ids[part], rng.integers(0, part.size), replace=False)
                assert flat.remove(gone) == tables.remove(gone)
        left = len(flat)
        allow = rng.random(left) < rng.choice([0.01, 0.4, 0.95]) if filtered else None
        for k in interesting_ks(flat, queries, left, rng):
            assert_equal(tables.search(queries, k, allow), flat.search(queries, k, allow))
        for radius in {0, 3, bits, int(rng.integers(0, bits + 1))}:
            found = tables.range_search(queries, radius, allow)
            assert_equal(found, flat.range_search(queries, radius, allow))
    return tables._tables.stats()


CASES = {
    "seed": SEEDS,
    "bits": st.one_of(st.integers(1, 300), st.sampled_from([8, 16, 32, 48, 64, 65, 128])),
    "rows": st.one_of(st.integers(0, 200), st.integers(0, 3000)),
    "kind": st.sampled_from(["uniform", "clustered", "collapsed"]),
    "substrings": st.integers(-1, 8),
    "scale": st.sampled_from([math.inf, math.inf, math.inf, 1.0, 0.0]),
    "threads": st.integers(1, 3),
    "parts": st.integers(1, 4),
    "ordered": st.booleans(),
    "filtered": st.booleans(),
    "isa": st.sampled_from(ISAS),
}
ANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(ANY, max_examples=200)
@given(**CASES)
def test_any_case_equals_the_flat_search(**case):
    """About 15 searches of some queries each: several thousand comparisons in all."""
    check_case(**case)


@pytest.mark.slow
@settings(ANY, max_examples=6000)
@given(**CASES)
def test_very_many_cases_equal_the_flat_search(**case):
    check_case(**case)


@pytest.mark.parametrize("substrings", range(1, 9))
@pytest.mark.parametrize("bits", [5, 16, 20, 33, 64, 100, 130])
def test_every_number_of_substrings_without_a_way_out(bits, substrings):
    for seed, kind in enumerate(["uniform", "clustered", "collapsed"]):
        case = {"rows": 1500, "threads": 1, "parts": 1, "ordered": False, "filtered": False}
        case |= {"bits": bits, "kind": kind, "substrings": substrings, "isa": ISAS[0]}
        stats = check_case(seed=seed, scale=math.inf, **case)
        (level,) = stats["levels"][-1:]
        longest = max(4, math.ceil(math.log2(level["groups"])))
        assert len(level["substrings"]) == min(substrings, bits)
        assert sum(level["substrings"]) == min(bits, len(level["substrings"]) * longest)
        # k = 0 asks nothing; everything else was answered from tables
        assert stats["flat"] == 0 or stats["flat"] < stats["queries"] / 8


@pytest.mark.parametrize("rows", [0, 100, 3000])
@pytest.mark.parametrize("scale", [0.0, 1.0, math.inf])
def test_no_queries_as_with_flat(rows, scale):
    flat, index = pair(64, substrings=4, scale=scale)
    for each in (flat, index):
        each.add(np.zeros((rows, 8), np.uint8))
    none = np.empty((0, 8), np.uint8)
    assert_equal(index.range_search(none, 2), flat.range_search(none, 2))
    assert_equal(index.search(none, 2), flat.search(none, 2))


def test_half_the_bits_covered_still_finds_everything():
    """Two substrings of at most 11 bits in codes of 64: most of the bits are in no table."""
    rng = np.random.default_rng(0)
    flat, tables = pair(64, substrings=2)
    codes = make_codes(rng, 2000, 64, "uniform")
    for index in (flat, tables):
        index.add(codes)
    queries = make_queries(rng, codes, 64, 20)
    for k in (1, 10, 500):
        assert_equal(tables.search(queries, k), flat.search(queries, k))
    assert tables._tables.stats()["levels"][0]["substrings"] == [11, 11]
    assert tables._tables.stats()["flat"] == 0


@pytest.mark.parametrize("bits", [64, 300])
def test_long_buckets_are_read_in_parts(bits):
    """More codes than are compared between two looks at the cut share a substring."""
    rng = np.random.default_rng(1)
    outputs = rng.random((30_000, bits)) < 0.5
    outputs[:, bits // 2 :] = False
    codes = ch.pack(outputs)
    flat, tables = pair(bits, substrings=4)
    for index in (flat, tables):
        index.add(codes)
    queries = make_queries(rng, codes, bits, 5)
    for k in (1, 100, 9000):
        assert_equal(tables.search(queries, k), flat.search(queries, k))
    assert_equal(tables.range_search(queries, 20), flat.range_search(queries, 20))
    assert tables._tables.stats()["flat"] == 0


class TestFallback:
    def test_queries_far_from_everything_go_flat_after_a_few_trials(self):
        rng = np.random.default_rng(0)
        flat, tables = pair(256, substrings=16, scale=1.0)
        codes = make_codes(rng, 50_000, 256, "uniform")
        for index in (flat, tables):
            index.add(codes)
        queries = make_codes(rng, 100, 256, "uniform")
        assert_equal(tables.search(queries, 10), flat.search(queries, 10))
        stats = tables._tables.stats()
        assert stats["flat"] == stats["queries"] == 100
        # eight were tried, and each for a small part of the codes
        assert stats["compared"] < 8 * 0.1 * len(codes)

    def test_hopeless_queries_are_tried_now_and_then(self):
        rng = np.random.default_rng(1)
        flat, tables = pair(256, substrings=16, scale=1.0)
        codes = make_codes(rng, 50_000, 256, "uniform")
        for index in (flat, tables):
            index.add(codes)
        tried = []
        for query in make_codes(rng, 64, 256, "uniform")[:, None]:
            before = tables._tables.stats()["compared"]
            assert_equal(tables.search(query, 10), flat.search(query, 10))
            tried.append(tables._tables.stats()["compared"] > before)
        assert tried == [i < 8 or i % 8 == 0 for i in range(64)]
        for _ in range(8):  # one of eight like these is tried, and all that follow
            assert_equal(tables.search(codes[:1], 10), flat.search(codes[:1], 10))
        assert tables._tables.stats()["flat"] == 72  # ten neighbours of a code are as hopeless
        for query in codes[:20, None]:
            assert_equal(tables.search(query, 1), flat.search(query, 1))
        assert tables._tables.stats()["flat"] == 72  # but its nearest is not, and is another kind

    @pytest.mark.parametrize("count", [1, 50])
    def test_near_neighbours_are_found_in_tables(self, count):
        rng = np.random.default_rng(0)
        flat, tables = pair(64, scale=1.0)
        codes = make_codes(rng, 200_000, 64, "uniform")
        for index in (flat, tables):
            index.add(codes)
        tables._tables.substrings = 4
        queries = codes[:count].copy()
        queries[:, 0] ^= 1
        assert_equal(tables.search(queries, 1), flat.search(queries, 1))
        assert_equal(tables.range_search(queries, 3), flat.range_search(queries, 3))
        stats = tables._tables.stats()
        assert stats["queries"] == 2 * count and stats["flat"] == 0
        assert stats["compared"] < 0.02 * len(codes) * stats["queries"]

    def test_some_of_a_batch_go_flat(self):
        rng = np.random.default_rng(2)
        flat, tables = pair(128, substrings=8, scale=1.0)
        codes = make_codes(rng, 100_000, 128, "uniform")
        for index in (flat, tables):
            index.add(codes)
        queries = make_codes(rng, 60, 128, "uniform")
        near = np.arange(60) % 3 > 0
        queries[near] = codes[:40]
        for threads in (1, 3):
            tables.threads = threads
            before = tables._tables.stats()["flat"]
            assert_equal(tables.search(queries, 1), flat.search(queries, 1))
            assert tables._tables.stats()["flat"] - before == 20
            limits, distances, ids = tables.range_search(queries, 4)
            assert_equal((limits, distances, ids), flat.range_search(queries, 4))

    def test_a_selective_filter_goes_flat_over_what_it_leaves(self):
        rng = np.random.default_rng(3)
        flat, tables = pair(64, substrings=4, scale=1.0)
        codes = make_codes(rng, 200_000, 64, "uniform")
        for index in (flat, tables):
            index.add(codes)
        allow = rng.choice(len(codes), 300, replace=False)
        queries = codes[:5]
        assert_equal(tables.search(queries, 10, allow), flat.search(queries, 10, allow))
        assert tables._tables.stats()["flat"] == 5

    def test_a_scale_of_zero_and_of_infinity(self):
        rng = np.random.default_rng(4)
        codes = make_codes(rng, 3000, 64, "uniform")
        for scale, flat_ones in ((0.0, 7), (math.inf, 0)):
            flat, tables = pair(64, substrings=5, scale=scale)
            for index in (flat, tables):
                index.add(codes)
            assert_equal(tables.search(codes[:7], 3000), flat.search(codes[:7], 3000))
            assert tables._tables.stats()["flat"] == flat_ones

    @pytest.mark.parametrize("bits", [513, 4096])
    def test_long_codes_are_searched_flat(self, bits):
        rng = np.random.default_rng(5)
        flat, tables = pair(bits, scale=1.0)
        codes = make_codes(rng, 2000, bits, "clustered")
        for index in (flat, tables):
            index.add(codes)
        queries = make_queries(rng, codes, bits, 3)
        assert_equal(tables.search(queries, 20), flat.search(queries, 20))
        assert tables._tables.stats()["levels"][0]["substrings"] == []
        assert tables._tables.nbytes == 0


class TestDuplicates:
    def collapsed(self, rows: int, distinct: int, ids=None):
        rng = np.random.default_rng(0)
        flat, tables = pair(64, scale=1.0)
        kinds = make_codes(rng, distinct, 64, "uniform")
        codes = kinds[rng.integers(0, distinct, rows)]
        for index in (flat, tables):
            index.add(codes, ids)
        return flat, tables, codes

    def test_equal_codes_are_compared_once(self):
        flat, tables, codes = self.collapsed(200_000, 10)
        for k in (1, 10, 1000, 30_000):
            assert_equal(tables.search(codes[:20], k), flat.search(codes[:20], k))
        stats = tables._tables.stats()
        assert stats["flat"] == 0
        assert stats["compared"] == 10 * stats["queries"]
        (level,) = stats["levels"]
        assert (level["groups"], level["rows"]) == (10, len(codes))
        assert level["bytes"] < 4.1 * len(codes)

    def test_the_smallest_ids_win_whatever_the_order_of_rows(self):
        ids = np.arange(70_000)[::-1] * 3
        flat, tables, codes = self.collapsed(70_000, 10, ids)
        distances, found = tables.search(codes[:10], 500)
        assert_equal((distances, found), flat.search(codes[:10], 500))
        for code, row in zip(codes[:10], found, strict=True):
            np.testing.assert_array_equal(row, np.sort(ids[(codes == code).all(1)])[:500])

    def test_a_filter_counts_rows_and_not_groups(self):
        flat, tables, codes = self.collapsed(100_000, 10)
        rng = np.random.default_rng(1)
        for share in (0.001, 0.3, 0.999):
            allow = rng.random(len(codes)) < share
            for k in (1, 50, 20_000):
                found = tables.search(codes[:5], k, allow)
                assert_equal(found, flat.search(codes[:5], k, allow))

    def test_tables_over_many_groups_with_copies(self):
        flat, tables, codes = self.collapsed(30_000, 5_000)
        forced(tables, substrings=4)
        for k in (1, 6, 7, 100):
            assert_equal(tables.search(codes[:50], k), flat.search(codes[:50], k))
        (level,) = tables._tables.stats()["levels"]
        assert level["groups"] < 5001 and len(level["substrings"]) == 4


class TestGrowth:
    def test_levels_are_few_and_builds_are_amortised(self):
        rng = np.random.default_rng(0)
        flat, tables = pair(32, substrings=2)
        queries = make_codes(rng, 3, 32, "uniform")
        built = 0
        rows_before = 0
        for _ in range(200):
            codes = make_codes(rng, 37, 32, "uniform")
            for index in (flat, tables):
                index.add(codes)
            before = tables._tables._levels
            assert_equal(tables.search(queries, 5), flat.search(queries, 5))
            now = tables._tables._levels
            built += sum(level.end - level.begin for level in now if level not in before)
            assert len(now) <= 5
            assert [a.end for a in now[:-1]] == [b.begin for b in now[1:]]
            assert all(level.end % 64 == 0 for level in now)
            rows_before = len(flat)
        assert now[0].begin == 0 and rows_before - now[-1].end <= rows_before // 16 + 64
        assert built < 8 * rows_before

    def test_few_rows_get_no_tables(self):
        index = ch.HammingIndex(64, "mih")
        index.add(make_codes(np.random.default_rng(0), 60_000, 64, "collapsed"))
        index.search(index.get([0]), 3)
        stats = index._tables.stats()
        assert stats["levels"] == [] and (stats["queries"], stats["flat"]) == (1, 1)

    def test_tables_are_built_again_once_half_their_rows_are_gone(self):
        rng = np.random.default_rng(1)
        flat, tables = pair(32, substrings=2)
        codes = make_codes(rng, 6400, 32, "clustered")
        for index in (flat, tables):
            index.add(codes[:3200])
        self.freeze(flat), self.freeze(tables)  # so that removing drops no rows of it
        for index in (flat, tables):
            index.add(codes[3200:])
        assert_equal(tables.search(codes[:5], 9), flat.search(codes[:5], 9))
        for share in (0.3, 0.3, 0.3):
            gone = rng.choice(flat.ids, int(6400 * share), replace=False)
            for index in (flat, tables):
                index.remove(gone)
            assert_equal(tables.search(codes[:5], 9), flat.search(codes[:5], 9))
        stats = tables._tables.stats()
        assert sum(level["rows"] for level in stats["levels"]) < 3200
        assert stats["builds"] >= 2

    def test_dropping_rows_keeps_the_tables_of_the_rows_before(self):
        rng = np.random.default_rng(2)
        flat, tables = pair(32, substrings=2)
        codes = make_codes(rng, 12_800, 32, "uniform")
        for index in (flat, tables):
            index.add(codes[:6400])
            self.freeze(index)
            index.search(codes[:1], 1)
            index.add(codes[6400:7400])
            index.search(codes[:1], 1)
        first, second = tables._tables._levels
        for index in (flat, tables):
            index.remove(np.arange(6400, 7200))  # most of the last run: its rows move
            index.add(codes[7400:7800])
        assert_equal(tables.search(codes[:9], 5), flat.search(codes[:9], 5))
        assert tables._tables._levels[0] is first and second not in tables._tables._levels

    @staticmethod
    def freeze(index: ch.HammingIndex) -> None:
        """As if the rows had been opened from a file."""
        rows = index._rows
        rows.runs[-1] = rows.runs[-1]._replace(frozen=True)

    def test_an_older_snapshot_is_searched_as_it_was(self):
        rng = np.random.default_rng(3)
        codes = make_codes(rng, 4096, 64, "clustered")
        queries = make_queries(rng, codes, 64, 6)
        _, tables = pair(64, substrings=4)
        tables.add(codes)
        self.freeze(tables)
        tables.add(codes)
        old = Snapshot.of(tables._rows, None)
        expected = tables.search(queries, 50)
        tables.remove(np.arange(100, 7000))  # drops rows of the last run, marks those of the first
        after = tables.search(queries, 50)
        assert (after[1] != expected[1]).any()
        assert_equal(tables._tables.search(old, queries, 50, 1), expected)
        assert_equal(tables.search(queries, 50), after)
        tables.add(codes)
        newer = tables.search(queries, 50)
        assert_equal(tables._tables.search(old, queries, 50, 1), expected)
        assert_equal(tables.search(queries, 50), newer)

    def test_others_do_not_wait_for_a_build(self):
        rng = np.random.default_rng(4)
        flat, tables = pair(64, substrings=4)
        codes = make_codes(rng, 1000, 64, "uniform")
        for index in (flat, tables):
            index.add(codes)
        with tables._tables._building:  # as while another thread builds
            assert_equal(tables.search(codes[:4], 7), flat.search(codes[:4], 7))
            assert tables._tables.stats()["builds"] == 0
        assert_equal(tables.search(codes[:4], 7), flat.search(codes[:4], 7))
        assert tables._tables.stats()["builds"] == 1


def test_searches_at_once_while_the_index_changes():
    rng = np.random.default_rng(0)
    near = np.zeros((400, 8), np.uint8)
    near[np.arange(400), rng.integers(0, 8, 400)] = rng.integers(1, 256, 400)  # at most 8 away
    far = np.full((300, 8), 255, np.uint8)
    far[:, 0] = rng.integers(0, 256, 300)  # at least 56 away
    _, index = pair(64, substrings=4, threads=2)
    index.add(near)
    query = np.zeros((1, 8), np.uint8)
    many = np.zeros((40, 8), np.uint8)
    one, forty = index.search(query, 400), index.search(many, 400)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            ids = index.add(far)
            index.remove(ids[::2])
            index.remove(ids[1::2])

    def look(_):
        for _ in range(25):
            assert_equal(index.search(query, 400), one)
            assert_equal(index.search(many, 400), forty)
            assert index.range_search(query, 8)[0][1] == 400
        return True

    writer = threading.Thread(target=change)
    writer.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(look, range(4)))
    finally:
        stop.set()
        writer.join()
    assert index._tables.stats()["builds"] > 1


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_and_opened_it_builds_its_tables_at_the_first_search(tmp_path, mmap):
    rng = np.random.default_rng(0)
    codes = make_codes(rng, 70_000, 64, "uniform")
    flat, index = ch.HammingIndex(64), ch.HammingIndex(64, "mih")
    for each in (flat, index):
        each.add(codes)
        each.remove(np.arange(50))
    index.save(tmp_path / "index")
    opened = ch.HammingIndex.open(tmp_path / "index", mmap=mmap)
    assert opened.method == "mih" and opened._tables.stats()["builds"] == 0
    forced(opened, substrings=4)
    size = opened.nbytes
    assert_equal(opened.search(codes[:60], 3), flat.search(codes[:60], 3))
    assert opened._tables.stats()["builds"] == 1 and opened.nbytes > size + 20 * len(codes)
    opened.add(codes[:100])
    flat.add(codes[:100])
    assert_equal(opened.search(codes[:60], 3), flat.search(codes[:60], 3))


def test_repr_and_nbytes_tell_the_memory_a_code():
    index = ch.HammingIndex(64, "mih", threads=2)
    assert repr(index).startswith("HammingIndex(bits=64, method='mih', device='cpu', threads=2): 0")
    codes = make_codes(np.random.default_rng(0), 1 << 17, 64, "uniform")
    index.add(codes)
    assert index.nbytes == codes.nbytes
    forced(index, substrings=4)
    index.search(codes[:1], 1)
    # 16-bit substrings: six bytes in each of four tables, four for the row, eight for the code
    assert 36 * len(codes) < index.nbytes < 46 * len(codes)
    assert f"({index.nbytes / len(codes):.1f} bytes a code)" in repr(index)


def test_memory_is_asked_for_before_it_is_taken(monkeypatch):
    _, index = pair(16, substrings=2)
    index.add(np.zeros((10_000, 2), np.uint8))
    queries = np.zeros((20, 2), np.uint8)
    assert index.range_search(queries, 0)[0][-1] == 200_000
    monkeypatch.setattr(_memory, "available_memory", lambda: 2_000_000)
    with pytest.raises(MemoryError, match="the 200,000 codes within radius 0 of 20 queries take"):
        index.range_search(queries, 0)
    assert index.range_search(queries[:9], 0)[0][-1] == 90_000
    index.add(np.zeros((90_000, 2), np.uint8))
    with pytest.raises(MemoryError, match=r'tables of 99,968 codes takes.*method="flat"'):
        index.search(queries, 1)
    assert index._tables.stats()["builds"] == 1


def test_tables_must_end_at_a_word_of_the_filter():
    library = _native.library()
    codes = np.zeros((200, 8), np.uint8)
    spans = [(codes, None, 0, None)]
    arguments = spans, 8, True
    for first, last in ((0, 100), (10, 128)):
        index = library.multi_build(*arguments, first, last, 64, 4, 1, "")
        with pytest.raises(ValueError, match="begin and end at a word of the row filter"):
            library.multi_topk([index], *arguments, codes[:1], 1, 1, "", math.inf)
    for first, last, bits in ((-1, 5, 64), (5, 201, 64), (6, 5, 64), (0, 200, 30)):
        with pytest.raises(ValueError, match="must"):
            library.multi_build(*arguments, first, last, bits, 4, 1, "")


class AnyHistory(RuleBasedStateMachine):
    """Any sequence of adding and removing, searched at any time, gives what a flat index gives."""

    @initialize(bits=st.sampled_from([7, 40, 64, 90]), substrings=st.integers(-1, 4))
    def begin(self, bits, substrings):
        self.bits = bits
        self.flat, self.tables = pair(bits, substrings)

    @rule(count=st.integers(0, 300), seed=SEEDS, ordered=st.booleans())
    def add(self, count, seed, ordered):
        rng = np.random.default_rng(seed)
        codes = make_codes(rng, count, self.bits, rng.choice(["uniform", "collapsed"]))
        first = self.flat._rows.next_id
        ids = None if ordered else first + rng.permutation(2 * count)[:count]
        for index in (self.flat, self.tables):
            index.add(codes, ids)

    @rule(share=st.floats(0, 1), seed=SEEDS)
    def remove(self, share, seed):
        ids = self.flat.ids
        gone = ids[np.random.default_rng(seed).random(ids.size) < share]
        assert self.flat.remove(gone) == self.tables.remove(gone)

    @rule()
    def freeze(self):
        for index in (self.flat, self.tables):
            if index._rows.runs:
                TestGrowth.freeze(index)

    @invariant()
    def same(self):
        if not hasattr(self, "flat"):
            return
        rng = np.random.default_rng(0)
        queries = make_codes(rng, 3, self.bits, "uniform")
        if len(self.flat):
            queries[0] = self.flat.get(self.flat.ids[:1])[0]
        assert_equal(self.tables.search(queries, 7), self.flat.search(queries, 7))
        assert_equal(self.tables.range_search(queries, 2), self.flat.range_search(queries, 2))


AnyHistory.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestAnyHistory = AnyHistory.TestCase
