"""Every metric that ranks against enumeration of all orders of ties, every k, with grades too."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coophash import _gains, metrics

RULES = ("average", "stable", "best", "worst")


def codes_at(distances, width=1):
    """One query of zeros and codes that stand at these distances from it."""
    bits = np.arange(8 * width)[None, :] < np.asarray(distances)[:, None]
    return np.zeros((1, width), np.uint8), np.packbits(bits, axis=1, bitorder="little")


def labels_of(grades, most):
    """Multi-hot labels of one query and of items that share so many labels with it."""
    query = np.ones((1, most + 2), bool)
    query[0, -2:] = [False, True]  # one label that nothing has, and one of others alone
    items = np.arange(most + 2)[None, :] < np.asarray(grades)[:, None]
    items[:, -2] = True
    return query, items


# ---------------------------------------------------------------- oracles: by the definition


def gain_of(grade, gain):
    return 2**grade - 1 if gain == "exponential" else grade


def dcg(grades, gain):
    return sum(gain_of(g, gain) / math.log2(rank + 1) for rank, g in enumerate(grades, start=1))


def ranked_ndcg(grades, k, gain):
    return dcg(grades[:k], gain) / dcg(sorted(grades, reverse=True)[:k], gain)


def ranked_recall(grades, k):
    return sum(g > 0 for g in grades[:k]) / sum(g > 0 for g in grades)


def ranked_precision(grades, k):
    return sum(g > 0 for g in grades[:k]) / min(k, len(grades))


def ranked_ap(grades, k, divisor):
    ranks = [rank for rank, g in enumerate(grades[:k], start=1) if g > 0]
    divide_by = len(ranks) if divisor == "hits" else min(sum(g > 0 for g in grades), k)
    return sum(hit / rank for hit, rank in enumerate(ranks, start=1)) / max(divide_by, 1)


def tie_orders(distances, grades):
    """The grades of every ranking by distance, one for each order of the tied items."""
    groups = [
        list(itertools.permutations(grades[distances == d].tolist())) for d in np.unique(distances)
    ]
    for orders in itertools.product(*groups):
        yield [x for order in orders for x in order]


METRICS = {
    "map, relevant": (
        lambda *a, **o: metrics.mean_average_precision(*a, **o),
        lambda grades, k: ranked_ap(grades, k, "relevant"),
    ),
    "map, hits": (
        lambda *a, **o: metrics.mean_average_precision(*a, divisor="hits", **o),
        lambda grades, k: ranked_ap(grades, k, "hits"),
    ),
    "precision": (metrics.precision_at_k, ranked_precision),
    "recall": (metrics.recall_at_k, ranked_recall),
    "ndcg, 2^g - 1": (metrics.ndcg, lambda grades, k: ranked_ndcg(grades, k, "exponential")),
    "ndcg, g": (
        lambda *a, **o: metrics.ndcg(*a, gain="linear", **o),
        lambda grades, k: ranked_ndcg(grades, k, "linear"),
    ),
    "ndcg, binary": (
        lambda *a, **o: metrics.ndcg(*a, relevance="binary", **o),
        lambda grades, k: ranked_ndcg([g > 0 for g in grades], k, "linear"),
    ),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(8))
def test_every_rule_and_k_equals_enumeration(seed, name):
    metric, by_definition = METRICS[name]
    rng = np.random.default_rng(seed)
    items = int(rng.integers(3, 9))
    distances = np.sort(rng.integers(0, 3, items))
    grades = rng.integers(0, 4, items)
    distances[1], grades[:2] = distances[0], (3, 0)  # ties whose order matters
    (query, database), labels = codes_at(distances), labels_of(grades, 3)
    orders = list(tie_orders(distances, grades))
    spread = False
    for k in range(1, items + 2):
        every = [by_definition(order, k) for order in orders]
        spread |= max(every) > min(every) + 1e-9
        expected = {
            "average": np.mean(every),
            "stable": by_definition(grades.tolist(), k),  # the database is in order of distance
            "best": max(every),
            "worst": min(every),
        }
        for rule in RULES:
            got = metric(query, database, *labels, k=k, ties=rule)
            assert got == pytest.approx(expected[rule], abs=1e-12), (rule, k)
    assert spread


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("k", [1, 40, 299])
def test_average_is_the_mean_over_shuffles(name, k):
    metric, _ = METRICS[name]
    rng = np.random.default_rng(2)
    query, database = codes_at(rng.integers(0, 9, 300))
    ours, theirs = labels_of(rng.integers(0, 4, 300), 3)
    values = []
    for _ in range(400):
        order = rng.permutation(300)
        values.append(metric(query, database[order], ours, theirs[order], k=k, ties="stable"))
    error = np.std(values) / math.sqrt(len(values))
    expected = metric(query, database, ours, theirs, k=k)
    assert error > 0 or name == "recall"
    assert abs(np.mean(values) - expected) <= 4.5 * error


@pytest.mark.parametrize("classes", [3, 21, 80])
def test_shared_labels_are_counted_for_every_query(classes):
    rng = np.random.default_rng(classes)
    q, d = (rng.integers(0, 256, (n, 1), dtype=np.uint8) for n in (11, 90))
    ours, theirs = (rng.random((n, classes)) < 0.4 for n in (11, 90))
    ours[3] = False
    shared = ours.astype(int) @ theirs.T.astype(int)
    distances = np.unpackbits(q[:, None] ^ d[None], axis=2).sum(axis=2)
    expected = []
    for row, grades in zip(distances, shared, strict=True):
        order = np.argsort(row, kind="stable")
        expected.append(ranked_ndcg(grades[order].tolist(), 20, "linear") if grades.any() else 0)
    got = metrics.ndcg(q, d, ours, theirs, 20, "stable", gain="linear", per_query=True)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    skip = metrics.ndcg(q, d, ours, theirs, 20, empty="skip", per_query=True)
    np.testing.assert_array_equal(np.isnan(skip), ~shared.any(axis=1))
    # One thread and several, and more queries than one block holds, give the same.
    again = metrics.ndcg(q, d, ours, theirs, 20, empty="skip", per_query=True, threads=1)
    np.testing.assert_array_equal(again, skip)


def test_one_query_of_ties_moves_ndcg_as_its_grades_lie():
    # All five at one distance; by hand: the gains 0, 0, 1, 1, 3 over the discounts.
    query, database = codes_at([2] * 5)
    labels = labels_of([0, 2, 1, 1, 0], 2)
    discounts = [1 / math.log2(i + 1) for i in range(1, 6)]
    ideal = 3 * discounts[0] + discounts[1] + discounts[2]
    got = metrics.ndcg(query, database, *labels)
    assert got == pytest.approx(sum(discounts) / ideal, abs=1e-14)
    assert metrics.ndcg(query, database, *labels, ties="best") == 1
    worst = 3 * discounts[4] + discounts[3] + discounts[2]
    assert metrics.ndcg(query, database, *labels, ties="worst") == pytest.approx(worst / ideal)


def test_sums_of_discounts_beyond_the_table():
    ranks = np.array([0, 1, 65_535, 65_536, 65_537, 70_000, 300_000, 5_000_000])
    terms = 1.0 / np.log2(np.arange(2.0, ranks[-1] + 2.0))
    exact = [math.fsum(terms[:m]) for m in ranks]
    np.testing.assert_allclose(_gains._sum_of_discounts(ranks), exact, rtol=2e-14)
    # The last that fits into 64 bits: x / log2(x) and its next terms, from the integral in parts.
    m = np.array([2**62])
    u = 62 * math.log(2)
    series = 2**62 / 62 * sum(math.factorial(i) / u**i for i in range(30))
    assert _gains._sum_of_discounts(m)[0] == pytest.approx(series, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    items=st.integers(1, 40),
    k=st.integers(1, 50),
    name=st.sampled_from(sorted(METRICS)),
)
def test_invariants(seed, items, k, name):
    metric, _ = METRICS[name]
    rng = np.random.default_rng(seed)
    q, d = (rng.integers(0, 32, (n, 1), dtype=np.uint8) for n in (6, items))
    ours, theirs = (rng.random((n, 5)) < 0.3 for n in (6, items))
    value = {r: metric(q, d, ours, theirs, k=k, ties=r) for r in RULES}
    for rule in RULES:
        assert 0 <= value["worst"] <= value[rule] + 1e-12
        assert value[rule] <= value["best"] + 1e-12 <= 1 + 2e-12

    # Neither the order of the database nor that of the queries, nor the threads, matter.
    order, turned = rng.permutation(items), rng.permutation(6)
    for rule in ("average", "best", "worst"):
        shuffled = metric(q[turned], d[order], ours[turned], theirs[order], k=k, ties=rule)
        assert shuffled == pytest.approx(value[rule], abs=1e-12)
        assert metric(q, d, ours, theirs, k=k, ties=rule, threads=1) == value[rule]
        assert metric(q, d, ours, theirs, k=k, ties=rule, threads=3) == value[rule]

    # A database in which every relevant item stands nearer than all others, the more labels it
    # shares the nearer, is ranked perfectly.
    one, near = q[:1], np.where(theirs[:, 0], 0, 7).astype(np.uint8)[:, None] ^ q[:1]
    perfect = metric(one, near, np.eye(5, dtype=bool)[:1], theirs, k=k, ties="worst")
    if not theirs[:, 0].any():
        assert perfect == 0
    elif name == "precision":
        assert perfect == pytest.approx(min(k, theirs[:, 0].sum()) / min(k, items))
    elif name == "recall":
        assert perfect == pytest.approx(min(1, k / theirs[:, 0].sum()))
    else:
        assert perfect == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), items=st.integers(1, 30), rule=st.sampled_from(RULES))
def test_recall_and_hits_grow_with_k(seed, items, rule):
    rng = np.random.default_rng(seed)
    q, d = (rng.integers(0, 16, (4, 1), dtype=np.uint8), rng.integers(0, 16, (items, 1), np.uint8))
    labels = rng.integers(0, 3, 4), rng.integers(0, 3, items)
    recall, hits = [], []
    for k in range(1, items + 1):
        recall.append(metrics.recall_at_k(q, d, *labels, k, rule, per_query=True))
        hits.append(k * metrics.precision_at_k(q, d, *labels, k, rule, per_query=True))
    steps = np.diff(np.array([np.zeros(4), *hits]), axis=0)
    assert (np.diff(recall, axis=0) > -1e-12).all()
    assert (steps > -1e-12).all() and (steps < 1 + 1e-12).all()
    found = np.isin(labels[0], labels[1])
    np.testing.assert_allclose(recall[-1], found)
