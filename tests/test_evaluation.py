"""Evaluation out of distribution: which codes meet which, and what counts as a loss."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import coophash as ch
from coophash.corruptions import corrupt, spoil
from coophash.data import ImageSet
from coophash.evaluation import (
    CollectionScores,
    choose_unseen,
    evaluate_codes,
    evaluate_collections,
    evaluate_corruptions,
    evaluate_unseen,
    relative_loss,
    without_classes,
)
from coophash.metrics import mean_average_precision

SMALL = dict(base_channels=4, features=16, generator_channels=2, latent_dim=4, langevin_steps=2)


def stripes(count=60, seed=0, noise=60):
    source = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = source.integers(0, noise, (count, 1, 12, 12), np.uint8)
    for row, label in enumerate(labels):
        images[row, 0, :, 4 * label : 4 * label + 4] += 150
    return ImageSet(images, labels.astype(np.int64), ("left", "middle", "right"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    found = ch.CoopHash(16, 3, (1, 12, 12), cooperative=False, **SMALL)
    ch.fit(found, stripes(), updates=60, batch_size=20, progress=False)
    return found


def test_unseen_classes_are_drawn_by_the_seed():
    assert choose_unseen(10, 3, seed=0) == choose_unseen(10, 3, seed=0)
    drawn = {choose_unseen(10, 3, seed) for seed in range(20)}
    assert len(drawn) > 10 and {c for each in drawn for c in each} == set(range(10))
    assert all(len(set(each)) == 3 and list(each) == sorted(each) for each in drawn)
    for count in (0, 9):
        with pytest.raises(ValueError, match="count must"):
            choose_unseen(10, count)


def test_training_images_lose_their_unseen_classes():
    images = stripes(9)
    left = without_classes(images, (1,))
    assert left.class_names == ("left", "right") and len(left) == 6
    np.testing.assert_array_equal(left.labels, [0, 1] * 3)
    np.testing.assert_array_equal(left.images, images.images[images.labels != 1])
    np.testing.assert_array_equal(left.ids, images.ids[images.labels != 1])
    for bad in ((), (3,), (-1,), (0.5,)):
        with pytest.raises(ValueError, match="unseen must be classes from 0 to 2"):
            without_classes(images, bad)


def test_the_four_protocols_of_unseen_classes():
    """Against rankings of the parts, taken out by hand."""
    source = np.random.default_rng(1)
    q, d = source.integers(0, 256, (40, 2), np.uint8), source.integers(0, 256, (90, 2), np.uint8)
    ql, dl = np.arange(40) % 5, np.arange(90) % 5
    found = evaluate_unseen(q, d, ql, dl, unseen=(4, 1), bits=16)
    assert found.unseen == (1, 4)
    new_q, new_d = (ql == 1) | (ql == 4), (dl == 1) | (dl == 4)
    every = np.ones(90, bool)
    for name, a, b in (
        ("seen_seen", ~new_q, ~new_d), ("seen_all", ~new_q, every),
        ("unseen_unseen", new_q, new_d), ("unseen_all", new_q, every),
    ):  # fmt: skip
        score = getattr(found, name)
        expected = mean_average_precision(q[a], d[b], ql[a], dl[b])
        assert score.mean_average_precision == pytest.approx(expected)
        assert (score.queries, score.database) == (a.sum(), b.sum())
    # Items of other classes in the database can only stand in the way.
    assert found.seen_all.mean_average_precision < found.seen_seen.mean_average_precision
    assert found.loss == pytest.approx(
        1 - found.unseen_all.mean_average_precision / found.seen_all.mean_average_precision
    )
    record = json.loads(json.dumps(found.as_dict()))
    assert set(record) == {
        "unseen", "seen@seen", "seen@all", "unseen@unseen", "unseen@all", "loss"
    }  # fmt: skip
    assert record["unseen@all"]["queries"] == 16


@pytest.mark.parametrize(
    ("labels", "unseen", "message"),
    [
        ((np.array([0, 0]), np.array([0, 1])), (1,), "query_labels must have seen and unseen"),
        ((np.array([0, 1]), np.array([1, 1])), (1,), "database_labels must have seen and"),
        ((np.array([0, 1]), np.array([0, 1])), (2,), "unseen must be classes from 0 to 1"),
        ((np.eye(2, dtype=int), np.eye(2, dtype=int)), (1,), "seen and unseen at once"),
        ((np.arange(3) % 2, np.array([0, 1])), (1,), "query_codes and query_labels .* 2 and 3"),
        ((np.array([0, 1]), np.array([1])), (1,), "database_codes and database_labels .* 2 and 1"),
    ],
)
def test_unseen_refuses(labels, unseen, message):
    codes = np.zeros((2, 1), np.uint8)
    with pytest.raises(ValueError, match=message):
        evaluate_unseen(codes, codes, *labels, unseen=unseen, bits=8)


def test_another_collection(model):
    home, other = stripes(60, seed=1), stripes(48, seed=2, noise=100)
    parts = home.subset(slice(0, 15)), home.subset(slice(15, 60))
    others = other.subset(slice(0, 12)), other.subset(slice(12, 48))
    found = evaluate_collections(model, *parts, *others)
    assert isinstance(found, CollectionScores)
    for score, q, d in (
        (found.home, parts[0], parts[1]), (found.other_queries, others[0], parts[1]),
        (found.other_database, parts[0], others[1]), (found.other, others[0], others[1]),
    ):  # fmt: skip
        assert score == evaluate_codes(
            model.encode(q), model.encode(d), q.labels, d.labels, bits=16
        )
    losses = [relative_loss(found.home, s) for s in (found.other_queries, found.other_database)]
    assert found.loss == pytest.approx(np.mean(losses))
    assert json.loads(json.dumps(found.as_dict()))["other_queries"]["queries"] == 12
    renamed = replace(others[1], class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="all sets must have the same classes"):
        evaluate_collections(model, *parts, others[0], renamed)


def test_corrupted_queries_against_a_clean_database(model):
    queries, database = stripes(30, seed=3), stripes(60, seed=4)
    found = evaluate_corruptions(
        model, queries, database, kinds=("contrast", "occlusion"), strengths=(1, 5), seed=2
    )
    codes = model.encode(database)

    def score(images):
        return evaluate_codes(model.encode(images), codes, queries.labels, database.labels, bits=16)

    assert found.clean == score(queries)
    assert found.corrupted["contrast"][5] == score(corrupt(queries, "contrast", 5, 2))
    assert found.corrupted["occlusion"][1] == score(spoil(queries, "occlusion", 1, 2)[0])
    each = {
        kind: np.mean([relative_loss(found.clean, s) for s in levels.values()])
        for kind, levels in found.corrupted.items()
    }
    assert found.losses == pytest.approx(each)
    assert found.loss == pytest.approx(np.mean(list(each.values()))) and found.loss > 0
    record = json.loads(json.dumps(found.as_dict()))
    assert list(record["corrupted"]) == ["contrast", "occlusion"]
    assert record["corrupted"]["occlusion"]["5"]["bits"] == 16 and record["seed"] == 2
    again = evaluate_corruptions(
        model, queries, database, kinds=("contrast", "occlusion"), strengths=(1, 5), seed=2
    )
    assert again == found
    for empty in ({"kinds": ()}, {"strengths": ()}):
        with pytest.raises(ValueError, match="must name at least one"):
            evaluate_corruptions(model, queries, database, **empty)


def test_a_loss_needs_something_to_lose():
    score = evaluate_codes(
        np.zeros((1, 1), np.uint8), np.zeros((2, 1), np.uint8), [0], [0, 1], bits=8
    )
    half = replace(score, mean_average_precision=score.mean_average_precision / 2)
    assert relative_loss(score, half) == pytest.approx(0.5)
    assert relative_loss(half, score) == pytest.approx(-1)
    with pytest.raises(ValueError, match="the clean mAP is 0"):
        relative_loss(replace(score, mean_average_precision=0.0), score)
