"""Self-matches left out, several metrics from one pass, radii; and what is refused."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from coophash import metrics

RULES = ("average", "stable", "best", "worst")
ALL = (
    "map", "map@7", "precision@7", "recall@7", "ndcg", "ndcg@7",
    "precision@r=2", "ramap", "ramap@r=3",
)  # fmt: skip


def case_of(kind, queries=12, items=60, bits=8):
    rng = np.random.default_rng(4)
    codes = [rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) & 0x77 for n in (queries, items)]
    if kind == "classes":
        return *codes, rng.integers(0, 4, queries), rng.integers(0, 4, items)
    return *codes, rng.random((queries, 6)) < 0.3, rng.random((items, 6)) < 0.3


def distances_of(q, d):
    return np.unpackbits(q[:, None] ^ d[None], axis=2).sum(axis=2)


def relevant_of(ours, theirs):
    if ours.ndim == 1:
        return ours[:, None] == theirs
    return (ours.astype(int) @ theirs.T.astype(int)) > 0


# ---------------------------------------------------------------- queries from the database


@pytest.mark.parametrize("ties", RULES)
@pytest.mark.parametrize("kind", ["classes", "multi-hot"])
def test_excluded_rows_are_as_if_they_were_not_there(kind, ties):
    q, d, ours, theirs = case_of(kind)
    rows = np.random.default_rng(1).permutation(60)[:12]
    q, ours = q.copy(), ours.copy()
    q[:8], ours[:8] = d[rows[:8]], theirs[rows[:8]]  # eight queries stand in the database
    exclude = rows.copy()
    exclude[6:8] = -1  # two of them may find themselves
    for measures in (ALL, ("map",), ("map@60",), ("precision@59",), ("ndcg@999",)):
        got = metrics.evaluate(
            q, d, ours, theirs, measures, ties, "skip", exclude=exclude, per_query=True
        )
        for i, row in enumerate(exclude):
            keep = np.arange(60) != row
            one = metrics.evaluate(
                q[i : i + 1], d[keep], ours[i : i + 1], theirs[keep], measures, ties,
                per_query=True,
            )  # fmt: skip
            for name in measures:
                assert np.nan_to_num(got[name][i]) == pytest.approx(one[name][0], abs=1e-12), name


def test_exclusion_reaches_every_function():
    _, d, _, theirs = case_of("classes")
    rows = np.arange(60)
    args, keywords = (d, d, theirs, theirs), {"exclude": rows}
    for call in (
        metrics.mean_average_precision,
        lambda *a, **o: metrics.precision_at_k(*a, 1, **o),
        lambda *a, **o: metrics.recall_at_k(*a, 1, **o),
        metrics.ndcg,
        lambda *a, **o: metrics.precision_at_radius(*a, 0, **o),
        metrics.radius_aware_map,
        lambda *a, **o: metrics.precision_recall_curve(*a, **o).precision[0],
    ):
        assert call(*args, **keywords) < call(*args)
    np.testing.assert_array_less(
        metrics.average_precision(*args, **keywords).mean(), metrics.average_precision(*args).mean()
    )
    # A database of the query alone: nothing is left to find, and nothing breaks.
    alone = (d[:1], d[:1], theirs[:1], theirs[:1])
    for ties in RULES:
        assert set(metrics.evaluate(*alone, ALL, ties, exclude=[0]).values()) == {0.0}
        assert metrics.evaluate(*alone, ALL[:5], ties) == dict.fromkeys(ALL[:5], 1.0)
    with pytest.raises(ValueError, match="no query has a relevant item"):
        metrics.mean_average_precision(*alone, empty="skip", exclude=[0])


# ---------------------------------------------------------------- several at once


@pytest.mark.parametrize("ties", RULES)
@pytest.mark.parametrize("empty", ["zero", "skip"])
@pytest.mark.parametrize("kind", ["classes", "multi-hot"])
def test_evaluate_equals_each_function(kind, empty, ties):
    case = case_of(kind)
    ours = case[2]
    ours[0] = 9 if kind == "classes" else False  # relevant to nothing
    options = {"gain": "linear", "relevance": "binary", "divisor": "hits", "cost": "buckets"}
    got = metrics.evaluate(*case, ALL, ties, empty, **options)
    of_gain = {"gain": "linear", "relevance": "binary"}
    expected = {
        "map": metrics.mean_average_precision(*case, None, ties, empty, "hits"),
        "map@7": metrics.mean_average_precision(*case, 7, ties, empty, "hits"),
        "precision@7": metrics.precision_at_k(*case, 7, ties, empty),
        "recall@7": metrics.recall_at_k(*case, 7, ties, empty),
        "ndcg": metrics.ndcg(*case, None, ties, empty, **of_gain),
        "ndcg@7": metrics.ndcg(*case, 7, ties, empty, **of_gain),
        "precision@r=2": metrics.precision_at_radius(*case, 2, empty),
        "ramap": metrics.radius_aware_map(*case, None, "buckets", empty=empty),
        "ramap@r=3": metrics.radius_aware_map(*case, 3, "buckets", empty=empty),
    }
    assert tuple(got) == ALL
    assert got == pytest.approx(expected, abs=1e-12)
    each = metrics.evaluate(*case, ALL, ties, empty, per_query=True, **options)
    for name in ALL:
        assert each[name].shape == (12,)
        assert np.nanmean(each[name]) == pytest.approx(got[name])
    assert np.isnan(each["map"][0]) == (empty == "skip")
    assert len(set(got.values())) == len(ALL)  # no two names mean the same here


# ---------------------------------------------------------------- radii


@pytest.mark.parametrize("cost", ["none", "buckets"])
@pytest.mark.parametrize("radius", [None, 0, 3, 16])
def test_radius_aware_map_by_its_formula(radius, cost):
    q, d, ours, theirs = case = case_of("multi-hot", bits=16)
    q[2], q[3] = 0x88, d[5]  # nothing is near; something is there
    distances, relevant = distances_of(q, d), relevant_of(ours, theirs)
    last = 16 if radius is None else radius
    expected = []
    for row, is_relevant in zip(distances, relevant, strict=True):
        value = 0.0
        for r in range(last + 1):
            near = row <= r
            buckets = sum(math.comb(16, i) for i in range(r + 1)) if cost == "buckets" else 1
            value += is_relevant[near].mean() / buckets / (last + 1) if near.any() else 0
        expected.append(value)
    got = metrics.radius_aware_map(*case, radius, cost, per_query=True)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert metrics.radius_aware_map(*case, radius, cost) == pytest.approx(np.mean(expected))
    if radius == 0:
        assert 0 in expected
        some = np.array(expected)[(distances <= 0).any(axis=1)]
        skip = metrics.radius_aware_map(*case, 0, cost, empty="skip")
        assert skip == pytest.approx(some.mean())


def test_radius_aware_map_counts_the_bits_that_are_there():
    q, d, ours, theirs = case_of("classes")
    q, d = q & 0x07, d & 0x07  # 3 bits
    got = metrics.radius_aware_map(q, d, ours, theirs, None, "buckets", 3)
    assert got == metrics.radius_aware_map(q, d, ours, theirs, 3, "buckets", 3)
    assert got != metrics.radius_aware_map(q, d, ours, theirs, 3, "buckets")  # of 8 bits
    with pytest.raises(ValueError, match="query_codes must be 0 in the 5 spare bits"):
        metrics.radius_aware_map(q | 0x80, d, ours, theirs, bits=3)
    two = np.array([[1], [0]], np.uint8)  # for one query all are right, for the other none is
    assert metrics.radius_aware_map(two, two, [0, 1], [0, 0]) == pytest.approx(0.5)


def test_radius_aware_map_of_long_codes_with_a_price():
    codes = np.zeros((1, 512), np.uint8)  # binomial(4096, 2048) is beyond any float
    assert 0 < metrics.radius_aware_map(codes, codes, [0], [0], cost="buckets") < 1e-3


def test_duplicates_of_the_database_leave_precision_within_a_radius():
    q, d, ours, theirs = case_of("classes")
    twice = np.repeat(np.arange(60), 3)
    for radius in range(9):
        assert metrics.precision_at_radius(q, d[twice], ours, theirs[twice], radius) == (
            pytest.approx(metrics.precision_at_radius(q, d, ours, theirs, radius), abs=1e-14)
        )
    assert metrics.precision_at_radius(q, d, ours, theirs, 10**30) == pytest.approx(
        metrics.precision_at_radius(q, d, ours, theirs, 8)
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda *a: metrics.evaluate(*a, "map"), TypeError, "measures must be a list of names"),
        (lambda *a: metrics.evaluate(*a, []), TypeError, "measures must be a list of names"),
        *(
            (lambda *a, n=n: metrics.evaluate(*a, [n]), ValueError, "measures must be map, map@K")
            for n in (
                "mAP",
                "map@0",
                "map@",
                "map@-1",
                "map@r=2",
                "precision",
                "recall",
                "recall@r=1",
                "ramap@3",
                "ndcg@5 ",
                "precision@r=",
                "map@1.5",
                "map@" + "9" * 30,
                5,
                None,
            )
        ),
        (lambda *a: metrics.evaluate(*a, ["ramap@r=9"]), ValueError, "beyond the 8 bits"),
        (lambda *a: metrics.evaluate(*a, cost="time"), ValueError, "cost must be 'none' or"),
        (lambda *a: metrics.evaluate(*a, gain="g"), ValueError, "gain must be 'exponential' or"),
        (lambda *a: metrics.ndcg(*a, gain="2^g"), ValueError, "gain must be 'exponential' or"),
        (lambda *a: metrics.ndcg(*a, relevance=True), ValueError, "relevance must be 'graded' or"),
        (lambda *a: metrics.ndcg(*a, k=0), ValueError, "k must be an integer >= 1, got 0"),
        (lambda *a: metrics.ndcg(*a, ties="any"), ValueError, "ties must be"),
        (lambda *a: metrics.recall_at_k(*a, None), TypeError, "got None: the recall of what rank"),
        (lambda *a: metrics.recall_at_k(*a, 2.0), TypeError, "k must be an integer >= 1, got 2.0"),
        (lambda *a: metrics.recall_at_k(*a, 5, empty="nan"), ValueError, "empty must be 'zero' or"),
        (lambda *a: metrics.radius_aware_map(*a, 9), ValueError, "at most the number of bits, 8"),
        (lambda *a: metrics.radius_aware_map(*a, -1), ValueError, "radius must be an integer >= 0"),
        (lambda *a: metrics.radius_aware_map(*a, cost=1), ValueError, "cost must be 'none' or"),
        (lambda *a: metrics.radius_aware_map(*a, bits=17), ValueError, "for 17 bits"),
        (lambda *a: metrics.ndcg(*a, threads=0), ValueError, "threads must be 1 to 1024"),
        (lambda *a: metrics.ndcg(*a, threads=1.0), TypeError, "threads must be a whole number"),
        *(
            (lambda *a, e=e: metrics.ndcg(*a, exclude=e), error, "exclude must be for each of 12")
            for e, error in (
                (np.zeros(11, int), TypeError),
                (np.zeros((12, 1), int), TypeError),
                (np.zeros(12), TypeError),
                (np.zeros(12, bool), TypeError),
                (5, TypeError),
                (np.full(12, -2), ValueError),
                (np.full(12, 60), ValueError),
                (np.full(12, 2**64 - 1, np.uint64), ValueError),
            )
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(*case_of("classes"))


def test_grades_that_cannot_be_counted_are_refused():
    codes = np.zeros((1, 512), np.uint8)
    for common, fits in ((14, True), (15, False)):
        labels = np.ones((1, common), bool)
        if fits:
            assert metrics.ndcg(codes, codes, labels, labels) == 1
        else:
            with pytest.raises(ValueError, match=r'4096 bits with up to 15 .* relevance="binary"'):
                metrics.ndcg(codes, codes, labels, labels)
            assert metrics.ndcg(codes, codes, labels, labels, relevance="binary") == 1


def test_all_take_exclude_and_threads_alike():
    for name in metrics.__all__:
        function = getattr(metrics, name)
        if inspect.isfunction(function):
            parameters = inspect.signature(function).parameters
            assert [*parameters][:4] == [
                "query_codes", "database_codes", "query_labels", "database_labels",
            ]  # fmt: skip
            assert [*parameters][-2:] == ["exclude", "threads"], name
            assert function.__doc__


def test_exponential_gains_that_float64_cannot_hold_are_refused():
    """Quietly they made the whole block 0."""
    codes = np.random.default_rng(0).integers(0, 256, (6, 2), dtype=np.uint8)
    labels = np.zeros((6, 1100), bool)
    labels[:, :3] = True
    assert metrics.ndcg(codes, codes, labels, labels, k=3) == pytest.approx(1)
    labels[0] = True
    with pytest.raises(ValueError, match=r"share up to 1,100 labels.*gain='linear'"):
        metrics.ndcg(codes, codes, labels, labels, k=3)
    assert 0 < metrics.ndcg(codes, codes, labels, labels, k=3, gain="linear") <= 1
