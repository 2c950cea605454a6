"""What `Protocol.evaluate` records, and the codes that it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

import coophash as ch
from coophash.protocols import Protocol


def own(**fields):
    settings = {
        "name": "own", "dataset": "cifar10", "rule": "per-class", "query": 2, "train": 4,
        "classes": 3, **fields,
    }  # fmt: skip
    return Protocol(**settings)


def codes_for(protocol, count=300, bits=12):
    random = np.random.default_rng(0)
    labels = np.arange(count) % protocol.classes
    split = protocol.split(labels)
    codes = ch.pack(np.eye(protocol.classes)[labels] @ random.normal(size=(protocol.classes, bits))
                    + random.normal(size=(count, bits)))  # fmt: skip
    return codes, labels, split


@pytest.mark.parametrize("ties", ["average", "stable", "best", "worst"])
@pytest.mark.parametrize("k", [None, 20])
@pytest.mark.parametrize("empty", ["zero", "skip"])
def test_the_record(ties, k, empty):
    protocol = own(ties=ties, k=k, empty=empty, divisor="hits")
    codes, labels, split = codes_for(protocol)
    labels = labels.copy()
    split.labels[split.query[0]] = labels[split.query[0]] = 0
    data = codes[split.query], codes[split.database], labels[split.query], labels[split.database]
    record = json.loads(json.dumps(protocol.evaluate(*data, split=split, bits=12)))
    rules = {"k": k, "divisor": "hits", "empty": empty}
    for name, order in (("map", ties), ("map_worst", "worst"), ("map_best", "best")):
        assert record[name] == ch.metrics.mean_average_precision(*data, ties=order, **rules)
    assert record["map_worst"] <= record["map"] <= record["map_best"]
    if k is None:
        assert "map_all" not in record and "precision_at_k" not in record
    else:
        assert record["map_all"] == ch.metrics.mean_average_precision(*data, ties=ties, empty=empty)
        assert record["precision_at_k"] == ch.metrics.precision_at_k(*data, k=k, ties=ties)
    assert record["precision_at_radius"] == ch.metrics.precision_at_radius(*data, radius=2)
    told = {"protocol": "own", "protocol_hash": protocol.hash, "split_hash": split.hash,
            "queries": 6, "database": 282, "bits": 12, "k": k, "ties": ties, "empty": empty,
            "divisor": "hits", "dataset": "cifar10", "seed": 0, "radius": 2,
            "database_order": "drawn", "queries_without_relevant": 0}  # fmt: skip
    assert {name: record[name] for name in told} == told


def test_queries_that_find_nothing():
    codes = ch.pack(np.random.default_rng(0).normal(size=(6, 8)))
    data = codes[:2], codes[2:], np.array([0, 1]), np.zeros(4, int)
    zero, skip = (own(rule="random", empty=empty).evaluate(*data) for empty in ("zero", "skip"))
    assert zero["queries_without_relevant"] == skip["queries_without_relevant"] == 1
    assert zero["map"] == pytest.approx(0.5) and skip["map"] == pytest.approx(1)
    assert zero["split_hash"] is None
    with pytest.raises(ValueError, match="no query has a relevant item"):
        own(rule="random", empty="skip").evaluate(*data[:2], np.array([1, 1]), data[3])


def test_codes_that_are_not_the_protocols():
    protocol = own(items=300)
    codes, labels, split = codes_for(protocol)
    data = [codes[split.query], codes[split.database], labels[split.query], labels[split.database]]
    protocol.evaluate(*data)
    with pytest.raises(ValueError, match="query_codes must be the 6 query codes of own, got 5"):
        protocol.evaluate(data[0][:5], data[1], data[2][:5], data[3])
    with pytest.raises(
        ValueError, match="database_codes must be the 282 database codes of own, got 9"
    ):
        protocol.evaluate(data[0], data[1][:9], data[2], data[3][:9])
    with pytest.raises(ValueError, match=r"database_labels are not those of split.database"):
        protocol.evaluate(*data[:3], data[3][::-1], split=split)
    with pytest.raises(ValueError, match="query_labels must be classes from 0 to 2 for own"):
        protocol.evaluate(*data[:2], data[2] + 9, data[3])


def test_torch_codes_and_labels():
    torch = pytest.importorskip("torch")
    protocol = own(items=300)
    codes, labels, split = codes_for(protocol)
    data = [codes[split.query], codes[split.database], labels[split.query], labels[split.database]]
    assert protocol.evaluate(*map(torch.from_numpy, data), split=split) == protocol.evaluate(
        *data, split=split
    )
