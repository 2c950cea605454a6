"""Metrics against enumeration of tie orders, plain loops and their own invariants."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coophash import metrics, relevance, ties

DIVISORS = ("relevant", "hits")


# ---------------------------------------------------------------- oracles: slow and obvious


def unpacked_distances(a, b):
    return (np.unpackbits(a, axis=1)[:, None] != np.unpackbits(b, axis=1)[None]).sum(axis=2)


def ranked_ap(relevant, k, divisor):
    """Average precision of one given ranking, by its definition."""
    hits, total = 0, 0.0
    for rank, is_relevant in enumerate(relevant[:k], start=1):
        if is_relevant:
            hits += 1
            total += hits / rank
    divide_by = hits if divisor == "hits" else min(sum(relevant), k)
    return total / divide_by if divide_by else 0.0


def tie_orders(distances, relevant):
    """The relevance sequence of every ranking by distance, one per order of the tied items."""
    groups = [
        list(itertools.permutations([bool(x) for x in relevant[distances == d]]))
        for d in np.unique(distances)
    ]
    for orders in itertools.product(*groups):
        yield [x for order in orders for x in order]


def codes_at(distances, width=2):
    """One query of zeros and codes that stand at these distances from it."""
    bits = np.arange(8 * width)[None, :] < np.asarray(distances)[:, None]
    return np.zeros((1, width), np.uint8), np.packbits(bits, axis=1, bitorder="little")


def random_case(seed, queries=20, items=150, width=1, classes=4):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (queries, width), dtype=np.uint8),
        rng.integers(0, 256, (items, width), dtype=np.uint8),
        rng.integers(0, classes, queries),
        rng.integers(0, classes, items),
    )


# ---------------------------------------------------------------- ties


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("seed", range(12))
def test_ties_equal_enumeration_of_all_orders(seed, divisor):
    rng = np.random.default_rng(seed)
    items = int(rng.integers(2, 9))
    distances = np.sort(rng.integers(0, 3, items))
    labels = rng.integers(0, 2, items)
    labels[rng.integers(items)] = 1
    query, database = codes_at(distances)
    orders = list(tie_orders(distances, labels))
    for k in range(1, items + 2):
        values = [ranked_ap(order, k, divisor) for order in orders]
        hits = [sum(order[:k]) / min(k, items) for order in orders]
        for name, reduce in (("average", np.mean), ("best", max), ("worst", min)):
            args = (query, database, [1], labels, k, name)
            assert metrics.mean_average_precision(*args, divisor=divisor) == pytest.approx(
                reduce(values), abs=1e-12
            ), (name, k)
            assert metrics.precision_at_k(*args) == pytest.approx(reduce(hits), abs=1e-12)


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("k", [None, 1, 40, 149])
def test_average_is_the_mean_over_shuffles(k, divisor):
    q, d, ql, dl = random_case(5, queries=1, items=300)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(600):
        order = rng.permutation(len(d))
        values.append(
            metrics.mean_average_precision(
                q, d[order], ql, dl[order], k=k, ties="stable", divisor=divisor
            )
        )
    error = np.std(values) / math.sqrt(len(values))
    expected = metrics.mean_average_precision(q, d, ql, dl, k=k, divisor=divisor)
    assert error > 0  # otherwise there was nothing to average
    assert abs(np.mean(values) - expected) < 4.5 * error


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("k", [None, 1, 4, 7, 260])
@pytest.mark.parametrize("width", [1, 2, 40])
def test_stable_follows_the_order_of_the_database(width, k, divisor):
    q, d, ql, dl = random_case(1, queries=9, items=260, width=width)
    d[10:30] = d[5]  # ties at every width
    expected = []
    for row, label in zip(unpacked_distances(q, d), ql, strict=True):
        order = sorted(range(len(d)), key=lambda i: (row[i], i))
        expected.append(ranked_ap([dl[i] == label for i in order], k or len(d), divisor))
    got = metrics.average_precision(q, d, ql, dl, k=k, ties="stable", divisor=divisor)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_precision_at_k_stable():
    query, database = codes_at([3, 1, 1, 1])
    labels = [1, 0, 1, 0]
    values = [metrics.precision_at_k(query, database, [1], labels, k, "stable") for k in (1, 2, 4)]
    assert values == [0, 0.5, 0.5]
    assert metrics.precision_at_k(query, database, [1], labels, 99) == 0.5  # as k = 4


def test_the_spread_that_ties_leave_is_reproduced():
    # One query, 16 bits, 54,000 items, a tenth relevant and nearer: the order of ties alone moves
    # average precision by a quarter.
    rng = np.random.default_rng(0)
    labels = (np.arange(54_000) % 10 == 0).astype(int)
    query, database = codes_at(rng.binomial(16, np.where(labels, 0.15, 0.35)))
    values = [
        metrics.mean_average_precision(query, database, [1], labels, ties=rule)
        for rule in ("worst", "average", "best")
    ]
    assert values == pytest.approx([0.46, 0.58, 0.72], abs=0.01)


@pytest.mark.parametrize("divisor", DIVISORS)
def test_average_holds_at_large_counts(divisor):
    # 3 distances, 10^6 items: against the sums written out, in extended precision.
    total = np.array([[200_000, 700_000, 100_000]])
    relevant = np.array([[3, 60_000, 1]])
    for k in (150_000, 200_000, 10**6):
        expected, n, p = 0.0, 0, 0
        for t, r in zip(total[0].tolist(), relevant[0].tolist(), strict=True):
            i = np.arange(1, min(max(k - n, 0), t) + 1, dtype=np.float64)
            terms = (p + 1 + (i - 1) * (r - 1) / (t - 1)) / (n + i)
            expected += r / t * math.fsum(terms.tolist())
            n, p = n + t, p + r
        got = ties.average_precision(total, relevant, k, "average", "relevant")[0]
        assert got == pytest.approx(expected / min(60_004, k), rel=1e-11)
    whole = ties.average_precision(total, relevant, 10**6, "average", divisor)[0]
    assert whole == pytest.approx(got, rel=1e-13)


def test_harmonic_differences():
    for n, m in [(0, 0), (0, 1), (3, 300), (255, 257), (256, 256), (300, 5000), (10**6, 10**6 + 7)]:
        exact = math.fsum(1 / i for i in range(n + 1, m + 1))
        got = ties._harmonic_between(np.array([n]), np.array([m]))[0]
        assert got == pytest.approx(exact, rel=1e-13, abs=1e-15)


def test_without_ties_every_rule_agrees_with_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    distances = rng.permutation(60)
    labels = rng.integers(0, 2, 60)
    query, database = codes_at(distances, width=8)
    expected = sklearn_metrics.average_precision_score(labels, -distances)
    for rule in ("average", "stable", "best", "worst"):
        value = metrics.mean_average_precision(query, database, [1], labels, ties=rule)
        assert value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    items=st.integers(1, 40),
    k=st.none() | st.integers(1, 50),
    divisor=st.sampled_from(DIVISORS),
)
def test_invariants(seed, items, k, divisor):
    q, d, ql, dl = random_case(seed, queries=5, items=items, classes=3)
    d &= 0x1F  # few distances, many ties
    value = {
        rule: metrics.average_precision(q, d, ql, dl, k=k, ties=rule, divisor=divisor)
        for rule in ("average", "stable", "best", "worst")
    }
    for middle in (value["average"], value["stable"]):
        assert not (middle > value["best"] + 1e-12).any()  # NaN compares false
        assert not (middle < value["worst"] - 1e-12).any()
    np.testing.assert_array_equal(np.isnan(value["average"]), ~np.isin(ql, dl))
    assert np.nanmin(value["worst"], initial=0) >= 0
    assert np.nanmax(value["best"], initial=1) <= 1 + 1e-12

    order = np.random.default_rng(seed).permutation(items)
    for rule in ("average", "best", "worst"):
        again = metrics.average_precision(q, d[order], ql, dl[order], k, rule, divisor)
        np.testing.assert_allclose(again, value[rule], atol=1e-12)
    if k is None or k >= items:
        other = metrics.average_precision(q, d, ql, dl, divisor=DIVISORS[divisor == "relevant"])
        np.testing.assert_allclose(other, value["average"], atol=1e-12)


# ---------------------------------------------------------------- relevance and histograms


@pytest.mark.parametrize("classes", [2, 10, 64, 65, 130])
def test_multi_hot_means_any_shared_label(classes):
    rng = np.random.default_rng(classes)
    q, d, _, _ = random_case(0, queries=13, items=70)
    ours, theirs = rng.random((13, classes)) < 0.1, rng.random((70, classes)) < 0.1
    expected = (ours.astype(int) @ theirs.T.astype(int)) > 0
    distances = unpacked_distances(q, d)
    for kind in (bool, np.int64, np.float32):
        data = relevance.check_retrieval(q, d, ours.astype(kind), theirs.astype(kind))
        assert [i for rows, _, _ in data.histograms() for i in range(13)[rows]] == [*range(13)]
        for rows, total, relevant in data.histograms():
            for i, row in enumerate(range(13)[rows]):
                np.testing.assert_array_equal(total[i], np.bincount(distances[row], minlength=9))
                near = distances[row][expected[row]]
                np.testing.assert_array_equal(relevant[i], np.bincount(near, minlength=9))


def test_one_hot_equals_classes():
    q, d, ql, dl = random_case(2)
    one_hot = np.eye(4, dtype=int)
    for k in (None, 20):
        a = metrics.average_precision(q, d, ql, dl, k=k)
        b = metrics.average_precision(q, d, one_hot[ql], one_hot[dl], k=k)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cells", [1, 50, 4000])
def test_blocks_of_any_size_give_the_same(monkeypatch, cells):
    case = random_case(3, queries=31, items=113, width=3)

    def values():
        return [
            metrics.average_precision(*case, k=17),
            metrics.average_precision(*case, ties="stable"),
            metrics.precision_at_k(*case, k=9, per_query=True),
            *metrics.precision_recall_curve(*case),
        ]

    whole = values()
    monkeypatch.setattr(relevance, "_BLOCK_CELLS", cells)
    monkeypatch.setattr(relevance, "_BLOCK_RANKS", cells)
    for a, b in zip(values(), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_memory_does_not_grow_with_queries_times_database():
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (1000, 6), dtype=np.uint8)
    d = rng.integers(0, 256, (54_000, 6), dtype=np.uint8)
    tracemalloc.start()
    try:
        metrics.mean_average_precision(q, d, rng.integers(0, 10, 1000), rng.integers(0, 10, 54_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # the distances alone would be 54 MB in one byte each


# ---------------------------------------------------------------- radius and curve


def loop_at_radius(case, radius):
    q, d, ql, dl = case
    near = unpacked_distances(q, d) <= radius
    same = ql[:, None] == dl[None, :]
    return (near & same).sum(1), near.sum(1), same.sum(1)


@pytest.mark.parametrize("radius", [0, 1, 2, 16, 99])
def test_precision_at_radius(radius):
    case = random_case(4, width=2)
    hits, found, _ = loop_at_radius(case, radius)
    expected = np.divide(hits, found, out=np.full(len(hits), np.nan), where=found > 0)
    skip = metrics.precision_at_radius(*case, radius, "skip", per_query=True)
    np.testing.assert_allclose(skip, expected)
    zero = metrics.precision_at_radius(*case, radius, per_query=True)
    np.testing.assert_allclose(zero, np.nan_to_num(expected))
    assert metrics.precision_at_radius(*case, radius) == pytest.approx(zero.mean())
    if np.isfinite(expected).any():
        value = metrics.precision_at_radius(*case, radius, empty="skip")
        assert value == pytest.approx(np.nanmean(expected))
    if radius < 2:
        assert (found == 0).any()  # so both rules were tried


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("empty", ["zero", "skip"])
def test_precision_recall_curve(average, empty):
    case = random_case(6, width=2)
    q, d, ql, _ = case
    q[0], d[:, 1] = 0, d[:, 1] | 0xC0
    ql[1] = 99  # relevant to nothing
    curve = metrics.precision_recall_curve(*case, average=average, empty=empty)
    np.testing.assert_array_equal(curve.radius, np.arange(17))
    for radius in range(17):
        hits, found, wanted = loop_at_radius(case, radius)
        for got, denominator in ((curve.precision, found), (curve.recall, wanted)):
            if average == "micro":
                hits_all, all_of = hits.sum(), denominator.sum()
                expected = hits_all / all_of if all_of else np.nan
            else:
                values = hits[denominator > 0] / denominator[denominator > 0]
                number = len(values) if empty == "skip" else len(hits)
                expected = values.sum() / number if number else np.nan
            if empty == "zero":
                expected = np.nan_to_num(expected)
            np.testing.assert_allclose(got[radius], expected, atol=1e-12)
    if (average, empty) == ("macro", "zero"):
        assert curve.precision[2] == pytest.approx(metrics.precision_at_radius(*case, 2))


def test_curve_ends_at_the_number_of_bits_given():
    q, d, ql, dl = random_case(7, width=2)
    q[:, 1] &= 0x0F
    d[:, 1] &= 0x0F
    curve = metrics.precision_recall_curve(q, d, ql, dl, bits=12)
    assert len(curve.radius) == 13 and curve.recall[-1] == pytest.approx(1)
    full = metrics.precision_recall_curve(q, d, ql, dl)
    np.testing.assert_array_equal(full.precision[:13], curve.precision)
    np.testing.assert_array_equal(full.recall[12:], np.ones(5))
    d[0, 1] |= 0x80
    with pytest.raises(ValueError, match="database_codes must be 0 in the 4 spare bits"):
        metrics.precision_recall_curve(q, d, ql, dl, bits=12)
    with pytest.raises(ValueError, match=r"query_codes must be uint8 \(N, 1\) for 8 bits"):
        metrics.precision_recall_curve(q, d, ql, dl, bits=8)


def test_queries_that_nothing_is_relevant_to():
    query, database = codes_at([0, 1, 2])
    queries = np.repeat(query, 2, axis=0)
    args = (queries, database, [1, 7], [1, 0, 1])
    np.testing.assert_array_equal(np.isnan(metrics.average_precision(*args)), [False, True])
    alone = metrics.mean_average_precision(query, database, [1], [1, 0, 1])
    assert alone == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.mean_average_precision(*args) == pytest.approx(alone / 2)
    assert metrics.mean_average_precision(*args, empty="skip") == pytest.approx(alone)
    with pytest.raises(ValueError, match="no query has a relevant item"):
        metrics.mean_average_precision(query, database, [7], [1, 0, 1], empty="skip")
