"""Splits: disjoint, stratified, seeded, exact in size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coophash.data import split_indices


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=1, max_size=7),
    shares=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    seed=st.integers(0, 2**32 - 1),
    open_part=st.booleans(),
)
def test_parts_are_disjoint_exact_and_stratified(counts, shares, seed, open_part):
    classes, items = len(counts), sum(counts)
    a, b = (0 if s == 0 else max(classes, s) for s in shares)
    assume(a + b + (classes if open_part else 0) <= items)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes) * 3, counts))
    sizes = {"a": a, "b": b, **({"rest": None} if open_part else {})}
    parts = split_indices(labels, sizes, seed)

    assert list(parts) == list(sizes)
    assert len(parts["a"]) == a and len(parts["b"]) == b
    together = np.concatenate(list(parts.values()))
    assert len(np.unique(together)) == len(together)
    if open_part:
        assert len(together) == items
    for part in parts.values():
        assert part.dtype == np.int64
        if len(part):
            got = np.unique(labels[part], return_counts=True)[1]
            assert len(got) == classes  # every class is there
    again = split_indices(labels, sizes, seed)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_shares_follow_the_classes():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    parts = split_indices(labels, {"train": 100, "query": 50, "database": None}, seed=1)
    for name, expected in (("train", [60, 30, 10]), ("query", [30, 15, 5])):
        assert np.abs(np.bincount(labels[parts[name]]) - expected).max() <= 1
    equal = split_indices(np.arange(5000) % 10, {"train": 500, "query": 500, "rest": None}, 0)
    for part in equal.values():
        assert len(set(np.bincount(part % 10))) == 1


def test_order_is_random_and_depends_on_the_seed():
    labels = np.repeat(np.arange(10), 50)
    one, two = (split_indices(labels, {"all": None}, seed)["all"] for seed in (0, 1))
    assert not np.array_equal(one, two)
    assert np.array_equal(np.sort(one), np.arange(500))
    # In class order every step but nine would stay in its class; at random one in ten does.
    assert (np.diff(labels[one]) == 0).mean() < 0.2


def test_a_seed_keeps_its_meaning():
    # From a stream that NumPy has frozen (NEP 19): a published split must never move.
    parts = split_indices([0, 1] * 6, {"train": 4, "query": 2, "rest": None}, seed=7)
    frozen = {"train": [5, 2, 10, 7], "query": [1, 0], "rest": [6, 4, 9, 11, 8, 3]}
    assert {name: part.tolist() for name, part in parts.items()} == frozen


@pytest.mark.parametrize(
    ("labels", "sizes", "message"),
    [
        ([0, 0, 1], {"a": 2, "b": None}, "class 1 .* has 1 image; needs at least 2, one for each"),
        ([0, 0, 1, 1], {"a": 5}, "sizes ask for 5 items, there are 4"),
        ([0, 1, 2, 2], {"a": 2}, "part 'a' gets 2 of 4 items for 3 classes; needs at least 3"),
        ([0, 0, 1, 1], {"a": 4, "b": None}, "part 'b' gets 0 of 4 items"),
        ([0, 1], {"a": None, "b": None}, "at most one open"),
        ([0, 1], {}, "at least one part"),
        ([0, 1], {"a": -1}, "integer >= 0 or None, got -1"),
        ([0, 1], {"a": 0.5}, "integer >= 0 or None, got 0.5"),
        ([[0, 1]], {"a": 1}, "multi-hot labels cannot be stratified"),
        ([], {"a": 1}, r"integers \(N,\), N > 0"),
        ([0.0, 1.0], {"a": 1}, "got float64"),
    ],
)
def test_bad_input(labels, sizes, message):
    with pytest.raises(ValueError, match=message):
        split_indices(labels, sizes, seed=0, class_names=("dog", "cat"))


def test_a_small_class_is_named():
    with pytest.raises(ValueError, match=r'class 1 \("cat"\) has 1 image'):
        split_indices([0, 0, 1], {"a": 2, "b": None}, 0, ["dog", "cat"])
