"""HammingIndex: ids, order, removal, filters, growth, and searches from several threads at once."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import coophash as ch
from coophash import search


def random_codes(rows: int, bits: int, seed: int, distinct: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = ch.pack(rng.random((distinct or rows, bits)) < 0.5)
    return codes[rng.integers(len(codes), size=rows)] if distinct else codes


def sorted_results(codes, ids, queries, k):
    """(Q, k) of a whole sort by (distance, id)."""
    distances = np.full((len(queries), k), search.NO_DISTANCE, np.int32)
    out = np.full((len(queries), k), search.NO_ID, np.int64)
    for q, query in enumerate(queries):
        row = np.unpackbits(codes ^ query, axis=1).sum(1, dtype=np.int32)
        order = np.lexsort((ids, row))[:k]
        distances[q, : order.size] = row[order]
        out[q, : order.size] = np.asarray(ids)[order]
    return distances, out


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_ids_are_assigned_in_order_of_arrival_and_counted_on():
    index = ch.HammingIndex(24)
    codes = random_codes(10, 24, 0)
    np.testing.assert_array_equal(index.add(codes[:4]), [0, 1, 2, 3])
    np.testing.assert_array_equal(index.add(codes[4:6], ids=[100, 50]), [100, 50])
    np.testing.assert_array_equal(index.add(codes[6:8]), [101, 102])
    np.testing.assert_array_equal(index.ids, [0, 1, 2, 3, 100, 50, 101, 102])
    assert len(index) == 8 and 50 in index and 51 not in index
    assert "0" not in index and -1 not in index and True not in index and 2**70 not in index
    np.testing.assert_array_equal(index.get([50, 0, 102]), codes[[5, 0, 7]])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_ids_in_any_order_still_break_ties_by_the_smallest(threads, k):
    codes = random_codes(30_000, 16, 0, distinct=40)  # hundreds of rows at every distance
    rng = np.random.default_rng(1)
    ids = rng.permutation(10**6)[: len(codes)]
    index = ch.HammingIndex(16, threads=threads)
    for part in np.array_split(np.arange(len(codes)), 3):
        index.add(codes[part], ids[part])
    for count in (3, 40):
        queries = random_codes(count, 16, 2)
        assert_same(index.search(queries, k), sorted_results(codes, ids, queries, k))
    limits, distances, found = index.range_search(queries, 3)
    for q in range(len(queries)):
        part = slice(limits[q], limits[q + 1])
        order = np.lexsort((found[part], distances[part]))
        np.testing.assert_array_equal(order, np.arange(order.size))


def test_falling_ids_with_every_code_the_same():
    rows = 5000
    index = ch.HammingIndex(64)
    index.add(np.zeros((rows, 8), np.uint8), ids=np.arange(rows)[::-1])
    for k in (1, 7, 3000, rows, rows + 2):
        _, ids = index.search(np.zeros((1, 8), np.uint8), k)
        np.testing.assert_array_equal(ids[0, :rows], np.arange(min(k, rows)))
        assert (ids[0, rows:] == -1).all()


def test_adding_copies_and_growing_keeps_everything():
    index = ch.HammingIndex(40)
    codes = random_codes(1000, 40, 3)
    given = codes.copy()
    for start in range(0, 1000, 7):
        index.add(given[start : start + 7])
    given[:] = 0
    np.testing.assert_array_equal(index.get(np.arange(1000)), codes)
    assert_same(index.search(codes[:9], 4), sorted_results(codes, np.arange(1000), codes[:9], 4))
    assert index.nbytes < 3 * codes.nbytes


def test_nothing_is_added_or_removed_by_a_call_that_fails():
    index = ch.HammingIndex(16)
    codes = random_codes(5, 16, 0)
    index.add(codes, ids=[4, 3, 2, 1, 0])
    for ids in ([9, 3], [9, 9], [9, -1], [9, 2**63 - 1], [9]):
        with pytest.raises(ValueError, match="ids must"):
            index.add(codes[:2], ids=ids)
    with pytest.raises(ValueError, match="ids must be in the index, 77 is not"):
        index.remove([3, 77])
    assert len(index) == 5 and 9 not in index and 3 in index


def test_removed_codes_are_gone_and_their_ids_are_never_used_again():
    codes = random_codes(300, 32, 0)
    index = ch.HammingIndex(32)
    index.add(codes)
    rng = np.random.default_rng(0)
    gone = np.array([], int)
    for share in (5, 100, 100, 90):  # past the half, rows are dropped for good
        left = np.setdiff1d(np.arange(300), gone)
        now = rng.choice(left, share, replace=False)
        assert index.remove(now) == share
        gone = np.union1d(gone, now)
        left = np.setdiff1d(np.arange(300), gone)
        assert len(index) == left.size
        np.testing.assert_array_equal(index.ids, left)
        assert_same(index.search(codes[:8], 6), sorted_results(codes[left], left, codes[:8], 6))
        np.testing.assert_array_equal(index.get(left), codes[left])
        with pytest.raises(ValueError, match="was removed, and an id is never used again"):
            index.add(codes[:1], ids=gone[:1])
        with pytest.raises(ValueError, match="is not"):
            index.get(gone[:1])
        with pytest.raises(ValueError, match="is not"):
            index.remove(gone[-1:])
    index.remove(index.ids)
    assert len(index) == 0 and (index.search(codes[:1], 2)[1] == -1).all()
    np.testing.assert_array_equal(index.add(codes[:2]), [300, 301])


def test_an_id_given_twice_is_removed_once():
    index = ch.HammingIndex(8)
    index.add(random_codes(3, 8, 0))
    assert index.remove([1, 1]) == 1 and len(index) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_filters_by_mask_and_by_id_with_removed_rows(threads):
    codes = random_codes(4000, 32, 0, distinct=50)
    rng = np.random.default_rng(1)
    ids = rng.permutation(9000)[:4000]
    index = ch.HammingIndex(32, threads=threads)
    index.add(codes, ids)
    gone = rng.choice(4000, 700, replace=False)
    index.remove(ids[gone])
    left = np.setdiff1d(np.arange(4000), gone)
    queries = random_codes(6, 32, 2)
    for share in (0.01, 0.4, 0.95):
        mask = rng.random(left.size) < share
        expected = sorted_results(codes[left][mask], ids[left][mask], queries, 30)
        assert_same(index.search(queries, 30, allow=mask), expected)
        wanted = rng.permutation(np.concatenate([ids[left][mask], ids[gone], [123456]]))
        assert_same(index.search(queries, 30, allow=wanted), expected)
        limits, _, found = index.range_search(queries, 32, allow=mask)
        assert (np.diff(limits) == mask.sum()).all() and np.isin(found, ids[left][mask]).all()
    assert (index.search(queries, 2, allow=[])[1] == -1).all()
    with pytest.raises(ValueError, match="one entry for each of the 3300 codes"):
        index.search(queries, 2, allow=np.ones(4000, bool))


def test_tensors_in_tensors_out():
    torch = pytest.importorskip("torch")
    codes = torch.from_numpy(random_codes(20, 16, 0))
    index = ch.HammingIndex(16)
    ids = index.add(codes)
    assert isinstance(ids, torch.Tensor) and torch.equal(index.get(ids), codes)
    results = index.search(codes, 3, allow=ids % 2 == 0), index.range_search(codes, 2)
    assert all(isinstance(x, torch.Tensor) for result in results for x in result)
    assert (results[0][1] % 2 == 0).all()
    assert index.remove(ids[:4]) == 4


def test_repr_says_what_it_is():
    index = ch.HammingIndex(20, threads=2)
    index.add(random_codes(12, 20, 0))
    text = "HammingIndex(bits=20, method='flat', device='cpu', threads=2): 12 codes"
    assert repr(index).startswith(text)
    assert (index.bits, index.width, index.method, index.device) == (20, 3, "flat", "cpu")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bits": 0}, ValueError, "bits must be 1 to 4096"),
        ({"bits": "64"}, TypeError, "bits must be a whole number"),
        ({"bits": 64, "method": "hnsw"}, ValueError, "method must be one of"),
        ({"bits": 64, "device": "tpu"}, ValueError, 'device must be "cpu", "cuda" or "cuda:0"'),
        ({"bits": 64, "device": "cuda:x"}, ValueError, "device must be"),
        ({"bits": 64, "device": 0}, TypeError, "device must be"),
        ({"bits": 64, "threads": 0}, ValueError, "threads must be 1"),
    ],
)
def test_what_an_index_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        ch.HammingIndex(**arguments)


def test_wrong_arguments():
    index = ch.HammingIndex(12)
    good = np.zeros((3, 2), np.uint8)
    index.add(good)
    for call, error, message in [
        (lambda: index.add(np.zeros((3, 12), np.float32)), TypeError, "call coophash.pack"),
        (lambda: index.add(good | 255), ValueError, "4 spare bits"),
        (lambda: index.search(good | 255, 1), ValueError, "queries must be 0 in the 4 spare bits"),
        (lambda: index.search(good[:, :1], 1), ValueError, r"uint8 \(N, 2\) for 12 bits"),
        (lambda: index.add(good, ids=[1]), ValueError, "1 ids for 3 codes"),
        (lambda: index.add(good, ids=[0.5, 1, 2]), TypeError, "ids must be whole numbers"),
        (lambda: index.add(good, ids=[[7], [8], [9]]), ValueError, r"ids must be whole numbers"),
        (lambda: index.get(1), ValueError, r"one id is \[1\]"),
        (lambda: index.get(np.array([2**63], np.uint64)), ValueError, "fit into int64"),
        (lambda: index.search(good, 1, allow=np.ones((3, 1), bool)), ValueError, "allow"),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_searches_at_once_from_many_threads_while_the_index_changes():
    rng = np.random.default_rng(0)
    near = np.zeros((400, 8), np.uint8)
    near[np.arange(400), rng.integers(0, 8, 400)] = rng.integers(1, 256, 400)  # at most 8 away
    far = np.full((300, 8), 255, np.uint8)
    far[:, 0] = rng.integers(0, 256, 300)  # at least 56 away
    index = ch.HammingIndex(64, threads=2)
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
        for _ in range(40):
            assert_same(index.search(query, 400), one)
            assert_same(index.search(many, 400), forty)
            assert index.range_search(query, 8)[0][1] == 400
        return True

    writer = threading.Thread(target=change)
    writer.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(look, range(6)))
    finally:
        stop.set()
        writer.join()


def _search_in_child(codes, expected, queue):
    found = ch.hamming_topk(codes, codes[:3], 4, threads=3)
    queue.put(bool((found[1] == expected[1]).all()))


def test_a_forked_process_can_search():
    codes = random_codes(20_000, 64, 0)
    expected = ch.hamming_topk(codes, codes[:3], 4, threads=3)  # this process has a pool now
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_search_in_child, args=(codes, expected, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and queue.get()


class AnyHistory(RuleBasedStateMachine):
    """Any sequence of adding and removing gives what a plain dictionary gives."""

    @initialize(bits=st.sampled_from([3, 16, 70]))
    def begin(self, bits):
        self.bits = bits
        self.index = ch.HammingIndex(bits)
        self.rows: dict[int, bytes] = {}
        self.used: set[int] = set()

    @rule(count=st.integers(0, 12), seed=st.integers(0, 99))
    def add(self, count, seed):
        codes = random_codes(count, self.bits, seed, distinct=3) if count else None
        if codes is not None:
            ids = self.index.add(codes)
            assert ids.tolist() == list(range(ids[0], ids[0] + count))
            assert ids[0] == max(self.used, default=-1) + 1
            self._note(codes, ids.tolist())

    @rule(ids=st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=6))
    def add_with_ids(self, ids):
        codes = random_codes(len(ids), self.bits, ids[0], distinct=3)
        if self.used & set(ids):
            with pytest.raises(ValueError, match="ids must be new"):
                self.index.add(codes, ids=ids)
        else:
            self.index.add(codes, ids=ids)
            self._note(codes, ids)

    @rule(share=st.floats(0, 1), seed=st.integers(0, 99))
    def remove(self, share, seed):
        rng = np.random.default_rng(seed)
        chosen = [i for i in self.rows if rng.random() < share]
        assert self.index.remove(chosen) == len(chosen)
        for i in chosen:
            del self.rows[i]

    def _note(self, codes, ids):
        self.used.update(ids)
        self.rows.update(zip(ids, (c.tobytes() for c in codes), strict=True))

    @invariant()
    def same(self):
        if not hasattr(self, "rows"):
            return
        assert len(self.index) == len(self.rows)
        assert self.index.ids.tolist() == list(self.rows)
        query = random_codes(2, self.bits, 5)
        codes = np.frombuffer(b"".join(self.rows.values()), np.uint8).reshape(-1, self.index.width)
        expected = sorted_results(codes, np.array(list(self.rows), int), query, 7)
        assert_same(self.index.search(query, 7), expected)


AnyHistory.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
TestAnyHistory = AnyHistory.TestCase
