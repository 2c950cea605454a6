"""OrthoHash's mAP: equal, digit for digit, to its formula as a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coophash.compat.orthohash import calculate_mAP


def plain_map(db_codes, db_labels, test_codes, test_labels, R, threshold=0.0):
    signs = []
    for codes in (test_codes, db_codes):
        sign = codes.sign()
        sign[codes.abs() < threshold] = 0
        signs.append(sign)
    distances = (signs[0].shape[1] - signs[0] @ signs[1].T) * 0.5
    nearest = torch.topk(distances, R, dim=1, largest=False)[1]
    values = []
    for label, items in zip(test_labels.numpy(), nearest.numpy(), strict=True):
        terms, hits = np.zeros(R), 0
        for rank, item in enumerate(items, start=1):
            if (label.astype(bool) & db_labels[item].numpy().astype(bool)).any():
                hits += 1
                terms[rank - 1] = hits / rank
        values.append(np.sum(terms) / hits if hits else 0.0)
    return np.mean(values)


@st.composite
def retrievals(draw):
    """(db_codes, db_labels, test_codes, test_labels), R, threshold."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    items, queries = draw(st.sampled_from([1, 2, 9, 70, 400])), draw(st.integers(1, 9))
    bits, classes = draw(st.sampled_from([1, 4, 16, 33, 64])), draw(st.sampled_from([1, 3, 20]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    share = draw(st.sampled_from([0.0, 0.1, 0.5]))
    one_hot, label_type = draw(st.booleans()), draw(st.sampled_from([torch.float32, torch.int64]))
    data = []
    for rows in (items, queries):
        data.append(torch.randn(rows, bits, generator=generator, dtype=dtype))
        labels = torch.rand(rows, classes, generator=generator) < share
        if one_hot:
            labels = torch.eye(classes)[torch.randint(0, classes, (rows,), generator=generator)]
        data.append(labels.to(label_type))
    # torch selects in one way where R is a small part of N, and in another elsewhere
    R = draw(st.sampled_from([1, min(2, items), max(1, items // 70), max(1, items // 2), items]))
    return data, R, draw(st.sampled_from([0.0, 0.01, 0.5]))


@settings(deadline=None, max_examples=120)
@given(retrievals())
def test_it_is_the_plain_loop(case):
    data, R, threshold = case
    before = [tensor.clone() for tensor in data]
    value = calculate_mAP(*data, R, threshold)
    assert isinstance(value, float) and value == plain_map(*data, R, threshold)
    assert all(torch.equal(now, then) for now, then in zip(data, before, strict=True))


def clusters(items=3000, queries=30, bits=16, classes=10):
    torch.manual_seed(0)
    centres = torch.randn(classes, bits)
    out = []
    for rows in (items, queries):
        labels = torch.randint(0, classes, (rows,)).sort().values
        out += [centres[labels] + 2 * torch.randn(rows, bits), torch.eye(classes)[labels]]
    return out


@pytest.mark.parametrize("R", [20, 1000, 3000])
@pytest.mark.parametrize("block", [1 << 13, 1 << 22])
def test_blocks_of_queries_make_no_difference(monkeypatch, R, block):
    monkeypatch.setattr("coophash.compat.orthohash._BLOCK_CELLS", block)
    data = clusters()
    assert calculate_mAP(*data, R) == plain_map(*data, R)


def test_labels_that_the_original_wrote_into():
    data = clusters(100, 5)
    written = data[3].clone()
    written[written == 0] = -1
    assert calculate_mAP(*data[:3], written, 50) == calculate_mAP(*data, 50)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"R": 11}, ValueError, "R must be 1 to 10, the items in the database, got 11"),
        ({"R": 0}, ValueError, "R must be 1 to 10"),
        ({"R": 2.0}, TypeError, "R must be a whole number, got 2.0"),
        ({"db_codes": torch.ones(10, 16).half()}, TypeError, r"float16: db_codes\.float\(\)"),
        ({"db_codes": torch.ones(10, 15)}, ValueError, "must be equally wide"),
        ({"test_codes": torch.full((3, 16), torch.nan)}, ValueError, "must not be NaN"),
        ({"test_codes": torch.ones(16)}, ValueError, "must be outputs"),
        ({"db_labels": torch.arange(10)}, ValueError, r"db_labels must be one-hot .* \(10,\)"),
        ({"test_labels": torch.full((3, 10), 0.5)}, ValueError, "test_labels must be one-hot"),
        ({"test_labels": torch.ones(3, 9)}, ValueError, "must be equally wide"),
    ],
)
def test_arguments_that_do_not_fit(change, error, message):
    names = ["db_codes", "db_labels", "test_codes", "test_labels"]
    given = dict(zip(names, clusters(10, 3), strict=True)) | {"R": 5, **change}
    with pytest.raises(error, match=message):
        calculate_mAP(**given)
