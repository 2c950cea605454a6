"""The torchmetrics classes, and agreement with torchmetrics and scikit-learn."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from coophash import metrics

torch = pytest.importorskip("torch")
torchmetrics = pytest.importorskip("torchmetrics")
adapter = pytest.importorskip("coophash.metrics_torch")

MEASURES = ("map@9", "ndcg", "precision@r=3")


def case_of(seed=0, queries=20, items=80, classes=0):
    rng = np.random.default_rng(seed)
    codes = [torch.from_numpy(rng.integers(0, 256, (n, 1), np.uint8)) for n in (queries, items)]
    if classes:
        labels = [torch.from_numpy(rng.random((n, classes)) < 0.3) for n in (queries, items)]
    else:
        labels = [torch.from_numpy(rng.integers(0, 4, n)) for n in (queries, items)]
    return *codes, *labels


def untied(seed=0, queries=8, items=64):
    """Codes of as many bits as there are items, each at a distance of its own from each query."""
    rng = np.random.default_rng(seed)
    place = np.tile(np.arange(items), (queries, 1))
    rng.permuted(place, axis=1, out=place)
    # One query at a time: rows of ones for the items, zeros for the query.
    ones = np.arange(items)[None, None, :] < place[:, :, None]
    return np.packbits(ones, axis=2, bitorder="little"), place


# ---------------------------------------------------------------- agreement with peers


def peers(k):
    from torchmetrics import retrieval

    return {
        "map": (retrieval.RetrievalMAP(top_k=k), {"divisor": "hits"}),
        "precision": (retrieval.RetrievalPrecision(top_k=k), {}),
        "recall": (retrieval.RetrievalRecall(top_k=k), {}),
        "ndcg": (retrieval.RetrievalNormalizedDCG(top_k=k), {"gain": "linear"}),
    }


@pytest.mark.parametrize("k", [1, 5, 30, 64])
@pytest.mark.parametrize("name", ["map", "precision", "recall", "ndcg"])
def test_without_ties_every_rule_agrees_with_torchmetrics(name, k):
    database, place = untied()
    rng = np.random.default_rng(k)
    ours, theirs = rng.integers(0, 3, 8), rng.integers(0, 3, 64)
    ours[0] = 7  # relevant to nothing: 0 in both
    peer, options = peers(k)[name]
    target = torch.from_numpy(ours[:, None] == theirs)
    index = torch.arange(8)[:, None].expand(8, 64)
    # torchmetrics leaves out items whose score is not above 0.
    peer.update(torch.from_numpy(65.0 - place), target, indexes=index)
    expected = float(peer.compute())
    assert 0 < expected < 1 or (name, k) == ("recall", 64)
    query = np.zeros((1, 8), np.uint8)
    for rule in ("average", "stable", "best", "worst"):
        values = [
            metrics.evaluate(
                query, database[i], ours[i : i + 1], theirs, [f"{name}@{k}"], rule, **options
            )[f"{name}@{k}"]
            for i in range(8)
        ]
        assert np.mean(values) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [None, 3, 20])
def test_ndcg_agrees_with_peers_that_average_ties(k):
    ranking = pytest.importorskip("sklearn.metrics")
    q, d, ours, theirs = (x.numpy() for x in case_of(1, classes=6))
    ours[0] = True
    shared = ours.astype(int) @ theirs.T.astype(int)
    distances = np.unpackbits(q[:, None] ^ d[None], axis=2).sum(axis=2)
    scores = 9.0 - distances
    got = metrics.ndcg(q, d, ours, theirs, k, gain="linear", per_query=True)
    for i in range(20):
        expected = ranking.ndcg_score(shared[i : i + 1], scores[i : i + 1], k=k)
        assert got[i] == pytest.approx(expected, abs=1e-12)
        gains = 2.0 ** shared[i : i + 1] - 1
        expected = ranking.ndcg_score(gains, scores[i : i + 1], k=k)
        value = metrics.ndcg(q[i : i + 1], d, ours[i : i + 1], theirs, k)
        assert value == pytest.approx(expected, abs=1e-12)
    peer = torchmetrics.retrieval.RetrievalNormalizedDCG(top_k=k)
    index = torch.arange(20)[:, None].expand(20, 80)
    peer.update(torch.from_numpy(scores), torch.from_numpy(shared), indexes=index)
    assert got.mean() == pytest.approx(float(peer.compute()), abs=1e-6)


# ---------------------------------------------------------------- the classes


@pytest.mark.parametrize("classes", [0, 6])
def test_batches_add_up(classes):
    q, d, ours, theirs = case = case_of(2, classes=classes)
    metric = adapter.HammingRetrieval(MEASURES, d, theirs, gain="linear")
    for part in (slice(0, 7), slice(7, 8), slice(8, 20)):
        value = metric(q[part], ours[part])
        expected = metrics.evaluate(q[part], d, ours[part], theirs, MEASURES, gain="linear")
        assert {k: float(v) for k, v in value.items()} == pytest.approx(expected, abs=1e-6)
    expected = metrics.evaluate(*case, MEASURES, gain="linear")
    found = metric.compute()
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, abs=1e-6)
    again = pickle.loads(pickle.dumps(metric)).compute()
    assert again == found
    metric.reset()
    metric.update(q[:3], ours[:3])  # the database is still there
    expected = metrics.evaluate(q[:3], d, ours[:3], theirs, MEASURES, gain="linear")
    assert {k: float(v) for k, v in metric.compute().items()} == pytest.approx(expected, abs=1e-6)


def test_a_database_in_parts():
    q, d, ours, theirs = case_of(3)
    metric = adapter.HammingMAP(k=11, divisor="hits")
    metric.update(q, ours)
    with pytest.raises(ValueError, match="there is no database yet"):
        metric.compute()
    metric.update_database(d[:50], theirs[:50])
    first = float(metric.compute())
    expected = metrics.mean_average_precision(q, d[:50], ours, theirs[:50], 11, divisor="hits")
    assert first == pytest.approx(expected, abs=1e-6)
    metric.update_database(d[50:], theirs[50:])
    expected = metrics.mean_average_precision(q, d, ours, theirs, 11, divisor="hits")
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(RuntimeError, match="need a database given at construction"):
        metric(q, ours)
    metric.reset()
    metric.update(q, ours)
    with pytest.raises(ValueError, match="there is no database yet"):
        metric.compute()


def test_buffers_may_be_used_again():
    q, d, ours, theirs = case_of(4)
    metric = adapter.HammingPrecision(k=5)
    codes, labels = q[:10].clone(), ours[:10].clone()
    metric.update(codes, labels)
    codes[:], labels[:] = q[10:], ours[10:]
    metric.update(codes, labels)
    codes.zero_()
    metric.update_database(d.numpy(), theirs.numpy())
    expected = metrics.precision_at_k(q, d, ours, theirs, 5)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)


def test_two_processes_give_what_one_gives():
    q, d, ours, theirs = case_of(5, classes=5)
    halves = []
    for queries, items in ((slice(0, 12), slice(0, 30)), (slice(12, 20), slice(30, 80))):
        metric = adapter.HammingNDCG(k=13)
        metric.update(q[queries], ours[queries])
        metric.update_database(d[items], theirs[items])
        halves.append(metric)
    names = iter(["query_codes", "query_labels", "database_codes", "database_labels"])

    def gather(tensor, group=None):
        name = next(names)
        both = [torch.cat(getattr(half, name)) for half in halves]
        assert torch.equal(tensor, both[0])
        return both

    expected = metrics.ndcg(q, d, ours, theirs, 13)
    first = halves[0]
    # compute() would ask every process: here the states of the other are handed over.
    first.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    first._to_sync = False
    assert float(first.compute()) == pytest.approx(expected, abs=1e-6)


def test_a_collection_of_them():
    q, d, ours, theirs = case_of(6)
    collection = torchmetrics.MetricCollection(
        {
            "map": adapter.HammingMAP(d, theirs, ties="worst"),
            "recall": adapter.HammingRecall(d, theirs, k=30, empty="skip"),
        }
    )
    collection.update(q, ours)
    found = collection.compute()
    worst = metrics.mean_average_precision(q, d, ours, theirs, ties="worst")
    recall = metrics.recall_at_k(q, d, ours, theirs, 30, empty="skip")
    assert float(found["map"]) == pytest.approx(worst, abs=1e-6)
    assert float(found["recall"]) == pytest.approx(recall, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q, d, a, b: adapter.HammingRetrieval("mAP", d, b), ValueError, "measures must be"),
        (lambda q, d, a, b: adapter.HammingMAP(d, b, k=0), ValueError, "measures must be"),
        (lambda q, d, a, b: adapter.HammingMAP(d, b, ties="x"), ValueError, "ties must be"),
        (lambda q, d, a, b: adapter.HammingMAP(d), TypeError, "must be given together"),
        (lambda q, d, a, b: adapter.HammingMAP(d, b[1:]), ValueError, "database_labels must have"),
        (lambda q, d, a, b: adapter.HammingMAP(d.float(), b), TypeError, "database_codes must be"),
        (lambda q, d, a, b: adapter.HammingMAP().compute(), ValueError, "no queries yet"),
        (
            lambda q, d, a, b: adapter.HammingMAP(d, b).update(q, a.float()),
            TypeError,
            "query_labels must be classes",
        ),
        (
            lambda q, d, a, b: adapter.HammingMAP(d, b).update_database(d, b),
            RuntimeError,
            "given at construction",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(*case_of())


def test_batches_must_be_alike():
    q, _, ours, _ = case_of()
    metric = adapter.HammingMAP()
    metric.update(q, ours)
    with pytest.raises(ValueError, match=r"query_codes must be like those before, uint8 \(N, 1\)"):
        metric.update(torch.cat([q, q], dim=1), ours)
    with pytest.raises(ValueError, match=r"int64 \(N\), got bool \(N, 3\)"):
        metric.update(q, torch.ones(20, 3, dtype=torch.bool))
    assert len(metric.query_codes) == len(metric.query_labels) == 1


def test_without_torchmetrics_it_says_what_to_install():
    code = "import sys\nsys.modules['torchmetrics'] = None\nimport coophash.metrics_torch\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert 'needs torchmetrics, which is not installed: pip install "coophash[torchmetrics]"' in (
        done.stderr
    )
