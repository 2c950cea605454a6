"""DeepHash-pytorch's evaluation: equal, digit for digit, to its formulas as plain loops."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import coophash as ch
from coophash import metrics
from coophash.compat import _signs
from coophash.compat.deephash import CalcHammingDist, CalcTopMap, CalcTopMapWithPR, compute_result


def rank_all(database, queries, database_labels, query_labels):
    """For each query which items share a label with it, in the order of NumPy's argsort."""
    for query, label in zip(queries, query_labels, strict=True):
        distances = (database.shape[1] - np.dot(query, database.T)) * 0.5
        yield (np.dot(label, database_labels.T) > 0)[np.argsort(distances)]


def plain_map(database, queries, database_labels, query_labels, topk):
    total = 0
    for ranked in rank_all(database, queries, database_labels, query_labels):
        ranks = [rank for rank, hit in enumerate(ranked[:topk], start=1) if hit]
        if ranks:
            total += np.mean([hits / rank for hits, rank in enumerate(ranks, start=1)])
    return total / len(queries)


def plain_curves(database, queries, database_labels, query_labels, topk):
    """Precision and recall at each rank: a row for each query with a hit in topk, then the mean."""
    precisions, recalls = [], []
    for ranked in rank_all(database, queries, database_labels, query_labels):
        if not ranked[:topk].any():
            continue
        precision, recall, hits = [], [], 0
        for rank, hit in enumerate(ranked, start=1):
            hits += bool(hit)
            precision.append(hits / rank)
            recall.append(float(np.float32(hits) / np.float32(ranked.sum())))
        precisions.append(precision)
        recalls.append(recall)
    if len(precisions) == 1:  # the original drops the axis of queries and averages over ranks
        return np.mean(precisions[0]), np.mean(recalls[0])
    if not precisions:
        return np.full((2, len(database)), np.nan)
    return np.mean(precisions, axis=0), np.mean(recalls, axis=0)


def some_codes(rng, kind, rows, bits, dtype):
    values = 3 * rng.normal(size=(rows, bits))
    if kind == "outputs":
        return values.astype(dtype)
    signs = np.sign(values)
    if kind == "zeros":
        signs[rng.random(signs.shape) < 0.02] = 0
    elif kind == "rectified":
        signs = np.maximum(signs, 0)
    return signs.astype(dtype)


def some_labels(rng, kind, rows, classes, dtype):
    if kind == "one-hot":
        return np.eye(classes)[rng.integers(0, classes, rows)].astype(dtype)
    if kind == "none":
        return np.zeros((rows, classes), dtype)
    return (rng.random((rows, classes)) < 0.2).astype(dtype)


def assert_equal(ours, theirs):
    assert isinstance(ours, float) and ours == theirs


def assert_curves(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert np.shape(mine) == np.shape(other) and mine.dtype == np.float64
        np.testing.assert_array_equal(mine, other)


@st.composite
def retrievals(draw):
    """(rB, qB, retrievalL, queryL), topk."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bits = draw(st.sampled_from([1, 3, 8, 12, 16, 33, 48, 64, 130]))
    queries, items = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 3, 9, 40, 300, 700]))
    classes = draw(st.sampled_from([1, 2, 5, 30]))
    kind = draw(st.sampled_from(["signs", "zeros", "rectified", "outputs"]))
    labels = draw(st.sampled_from(["one-hot", "multi-hot", "none"]))
    one, other = (draw(st.sampled_from(["f4", "f8", "f2", "i2", "i8"])) for _ in range(2))
    label_type = draw(st.sampled_from(["i1", "u1", "i8", "f4", "f8"]))
    data = (
        some_codes(rng, kind, items, bits, one),
        some_codes(rng, kind, queries, bits, draw(st.sampled_from([one, other]))),
        some_labels(rng, draw(st.sampled_from([labels, "multi-hot"])), items, classes, label_type),
        some_labels(rng, labels, queries, classes, label_type),
    )
    if draw(st.booleans()):
        data = tuple(np.asfortranarray(array) for array in data)
    topk = draw(st.sampled_from([-1, -2, 0, 1, 5, 100, items, items + 3, -items - 1, None]))
    return data, topk


@settings(deadline=None, max_examples=150)
@given(retrievals())
def test_map_is_the_plain_loop(case):
    data, topk = case
    assert_equal(CalcTopMap(*data, topk), plain_map(*data, topk))


@settings(deadline=None, max_examples=60)
@given(retrievals())
def test_curves_are_the_plain_loop(case):
    (rB, qB, retrievalL, queryL), topk = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # curves of no query are NaN, with a warning
        value, *curves = CalcTopMapWithPR(qB, queryL, rB, retrievalL, topk)
    assert_equal(value, plain_map(rB, qB, retrievalL, queryL, topk))
    assert_curves(curves, plain_curves(rB, qB, retrievalL, queryL, topk))


def clusters(rows, queries, bits=16, classes=10, seed=0):
    """Codes that say something about their labels; at 16 bits nearly every distance is tied."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, bits))
    out = []
    for count in (rows, queries):
        labels = np.sort(rng.integers(0, classes, count))
        outputs = centres[labels] + 2 * rng.normal(size=(count, bits))
        out.append((np.sign(outputs).astype(np.float32), np.eye(classes, dtype=np.int8)[labels]))
    (rB, retrievalL), (qB, queryL) = out
    return rB, qB, retrievalL, queryL


@pytest.mark.parametrize("topk", [-1, 1000])
@pytest.mark.parametrize("zeros", [0, 5])
def test_a_database_in_class_order(topk, zeros):
    data = clusters(30_000, 40)
    for codes in data[:2]:
        codes[:: len(codes) // 20, :zeros] = 0
    value = plain_map(*data, topk)
    assert_equal(CalcTopMap(*data, topk), value)
    rB, qB, retrievalL, queryL = data
    assert_equal(CalcTopMapWithPR(qB, queryL, rB, retrievalL, topk)[0], value)


@pytest.mark.parametrize("threads", [1, 7])
@pytest.mark.parametrize("bits", [4, 16])  # at 4 bits most queries are alike
def test_any_number_of_threads(monkeypatch, threads, bits):
    data = clusters(3000, 50, bits)
    monkeypatch.setattr("coophash._native.check_threads", lambda threads_given: threads)
    monkeypatch.setattr("coophash.compat.deephash._BLOCK_CELLS", 6000)
    rB, qB, retrievalL, queryL = data
    value, *curves = CalcTopMapWithPR(qB, queryL, rB, retrievalL, 100)
    assert_equal(value, plain_map(*data, 100))
    assert_equal(CalcTopMap(*data, 100), value)
    assert_curves(curves, plain_curves(*data, 100))


def test_signs_are_compared_as_packed_codes(monkeypatch):
    data = clusters(500, 9)
    expected = CalcTopMap(*data, -1)

    def formula(a, b):
        assert len(b) == 1, "the inner product with the whole database"
        return 0.5 * (b.shape[1] - np.dot(a, b.T))

    monkeypatch.setattr(_signs, "inner_product_distances", formula)
    assert_equal(CalcTopMap(*data, -1), expected)
    data[0][3, 2] = 0
    assert_equal(CalcTopMap(*data, -1), plain_map(*data, -1))  # one item: still not all


@pytest.mark.parametrize("dtype, bits", [("i1", 63), ("i1", 64), ("i1", 127), ("f4", 5000)])
def test_lengths_at_which_small_integers_wrap(dtype, bits):
    rng = np.random.default_rng(bits)
    codes = [some_codes(rng, "signs", rows, bits, dtype) for rows in (200, 3)]
    codes[0][0], codes[1][0] = 1, 1
    codes[0][1] = -1
    labels = [some_labels(rng, "one-hot", rows, 3, "i1") for rows in (200, 3)]
    assert_equal(CalcTopMap(*codes, *labels, -1), plain_map(*codes, *labels, -1))


@pytest.mark.parametrize("dtype, classes", [("i1", 127), ("i1", 128), ("u1", 255), ("u1", 256)])
def test_numbers_of_shared_labels_that_wrap(dtype, classes):
    rB, qB, *_ = clusters(40, 2)
    retrievalL = np.ones((40, classes), dtype)
    retrievalL[::3] = 0
    queryL = np.ones((2, classes), dtype)
    data = rB, qB, retrievalL, queryL
    assert_equal(CalcTopMap(*data, -1), plain_map(*data, -1))


def test_labels_that_are_no_zeros_and_ones():
    rB, qB, retrievalL, queryL = clusters(100, 5)
    rng = np.random.default_rng(1)
    data = rB, qB, rng.normal(size=retrievalL.shape), rng.normal(size=queryL.shape)
    assert_equal(CalcTopMap(*data, 20), plain_map(*data, 20))


def test_topk_minus_one_leaves_out_the_last_item():
    rB, qB = -np.eye(4, 8) * 2 + 1, np.ones((1, 8))
    rB[3] = -1  # the farthest, and the only relevant one
    retrievalL, queryL = np.eye(2)[[0, 0, 0, 1]], np.eye(2)[[1]]
    assert CalcTopMap(rB, qB, retrievalL, queryL, -1) == 0.0
    assert CalcTopMap(rB, qB, retrievalL, queryL, None) == 0.25


def test_the_curve_of_one_query_is_a_number_and_of_none_is_nan():
    rB, qB, retrievalL, queryL = clusters(60, 1)
    _, precision, recall = CalcTopMapWithPR(qB, queryL, rB, retrievalL, -1)
    assert np.shape(precision) == np.shape(recall) == ()
    with pytest.warns(RuntimeWarning, match="no query has a hit"):
        value, precision, recall = CalcTopMapWithPR(qB, queryL, rB, retrievalL, 0)
    assert value == 0.0 and np.isnan(precision).all() and recall.shape == (60,)


@settings(deadline=None, max_examples=60)
@given(retrievals())
def test_distances_are_the_formula(case):
    (rB, qB, _, _), _ = case
    for queries in (qB, qB[0]):
        ours = CalcHammingDist(queries, rB)
        theirs = (rB.shape[1] - np.dot(queries, rB.T)) * 0.5
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_zero_is_half_a_bit_away_from_both():
    distances = CalcHammingDist(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0], [1.0, -1.0]]))
    assert distances.tolist() == [[0.5, 0.5]]


def test_tensors_and_layouts_make_no_difference():
    data = clusters(300, 6)
    expected = plain_map(*data, -1)
    tensors = [torch.from_numpy(array) for array in data]
    assert_equal(CalcTopMap(*tensors, -1), expected)
    assert_equal(CalcTopMap(*(np.asfortranarray(array) for array in data), -1), expected)
    assert_equal(CalcTopMap(*(array[:, ::-1] for array in data), -1), expected)
    distances = CalcHammingDist(tensors[1], tensors[0])
    assert isinstance(distances, torch.Tensor)
    np.testing.assert_array_equal(distances.numpy(), CalcHammingDist(data[1], data[0]))


@pytest.mark.parametrize("k", [1, 7, 60])
def test_without_ties_it_is_the_metric(k):
    rng = np.random.default_rng(k)
    distances = rng.permutation(60)
    rB = np.where(np.arange(60) < distances[:, None], -1.0, 1.0)
    qB = np.ones((4, 60))
    retrievalL, queryL = (some_labels(rng, "one-hot", rows, 3, "i8") for rows in (60, 4))
    right = metrics.mean_average_precision(
        ch.pack(qB), ch.pack(rB), queryL, retrievalL, k=k, divisor="hits"
    )
    assert CalcTopMap(rB, qB, retrievalL, queryL, k) == pytest.approx(right, abs=1e-12)


def test_its_mean_over_orders_of_the_database_is_the_metric_with_averaged_ties():
    rB, qB, retrievalL, queryL = clusters(40, 3, bits=6, classes=3)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(40) for _ in range(2000)]
    values = [CalcTopMap(rB[order], qB, retrievalL[order], queryL, 10) for order in orders]
    right = metrics.mean_average_precision(
        ch.pack(qB), ch.pack(rB), queryL, retrievalL, k=10, divisor="hits"
    )
    assert np.std(values) > 0.01
    assert abs(np.mean(values) - right) < 4 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"qB": np.ones((3, 15))}, ValueError, "rB and qB must have the same length of a code"),
        ({"qB": np.ones((2, 16))}, ValueError, "qB and queryL must have one row for each query"),
        ({"retrievalL": np.ones((9, 10))}, ValueError, "rB and retrievalL must have one row"),
        ({"queryL": np.ones((3, 9))}, ValueError, "the same number of classes"),
        ({"queryL": np.arange(3)}, ValueError, r"queryL must be labels, one-hot .* got \(3,\)"),
        ({"rB": np.ones((0, 16))}, ValueError, "rB must be codes"),
        ({"rB": np.array([["x"]])}, TypeError, "rB must be an array of real numbers"),
        ({"topk": 2.5}, TypeError, "topk must be a whole number or None, got 2.5"),
    ],
)
def test_arguments_that_do_not_fit(change, error, message):
    given = dict(zip(["rB", "qB", "retrievalL", "queryL"], clusters(10, 3), strict=True))
    given |= {"topk": -1, **change}
    with pytest.raises(error, match=message):
        CalcTopMap(**given)
    with pytest.raises(error, match=message):
        CalcTopMapWithPR(**given)


def test_distances_of_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"B1 and B2 must be codes .* got \(2, 3\) and \(2, 4\)"):
        CalcHammingDist(np.ones((2, 3)), np.ones((2, 4)))


class Net(torch.nn.Module):
    def __init__(self, bits=4):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(6, bits))

    def forward(self, images):
        return self.layers(images.flatten(1))


def loader(batches=3):
    torch.manual_seed(0)
    return [
        (torch.randn(5, 2, 3), torch.eye(3)[torch.arange(5) % 3], torch.arange(5))
        for _ in range(batches)
    ]


def test_compute_result(capsys):
    batches, net = loader(), Net().train()
    with torch.no_grad():
        net.layers[1].weight[2] = 0
        net.layers[1].bias[2] = 0
    codes, labels = compute_result(batches, net, torch.device("cpu"))
    expected = torch.cat([net.layers[1](images.flatten(1)) for images, _, _ in batches])
    assert torch.equal(codes, expected.sign()) and codes.dtype == torch.float32
    assert (codes[:, 2] == 0).all() and not codes.requires_grad
    assert torch.equal(labels, torch.cat([classes for _, classes, _ in batches]))
    assert not net.training
    assert "3/3" in capsys.readouterr().err  # the progress bar
    assert 0 < CalcTopMap(codes, codes, labels, labels, -1) <= 1


def test_compute_result_of_something_else():
    with pytest.raises(ValueError, match="at least one batch"):
        compute_result([], Net(), "cpu")
    with pytest.raises(ValueError, match="a batch of 2"):
        compute_result([batch[:2] for batch in loader()], Net(), "cpu")
    net = Net()
    net.forward = lambda images: (images, images)
    with pytest.raises(TypeError, match=r"must return a tensor .* got tuple"):
        compute_result(loader(), net, "cpu")


def test_torch_is_imported_for_compute_result_alone():
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from coophash.compat.deephash import CalcTopMap, compute_result\n"
        "eye = np.eye(3)\n"
        "print(CalcTopMap(2 * eye - 1, 2 * eye - 1, eye, eye, -1), 'torch' in sys.modules)\n"
        "sys.modules['torch'] = None\n"
        "compute_result([], None, 'cpu')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "1.0 False", done.stderr
    assert 'compute_result needs torch, which is not installed: pip install "coophash[train]"' in (
        done.stderr
    )
