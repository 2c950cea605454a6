"""One index of two modalities, and the scores across them."""

import itertools

import numpy as np
import pytest

import coophash as ch
from coophash.cross_modal import (
    IMAGE,
    TEXT,
    cross_modal_curves,
    cross_modal_index,
    evaluate_cross_modal,
    instance_recall,
    modality_ids,
    split_ids,
)

BITS = 12


@pytest.fixture
def codes():
    random = np.random.default_rng(0)
    return [ch.pack(random.normal(size=(n, BITS))) for n in (30, 30, 8, 8)]


def test_one_index_holds_both_and_ids_say_which(codes):
    images, texts, queries, _ = codes
    index = cross_modal_index(images, texts, BITS, pairs=np.arange(100, 130))
    assert len(index) == 60
    distances, ids = index.search(queries, 60)
    pairs, modalities = split_ids(ids)
    for row in range(len(queries)):
        assert sorted(zip(pairs[row], modalities[row], strict=True)) == sorted(
            itertools.product(range(100, 130), (IMAGE, TEXT))
        )
        for pair, modality, distance in zip(
            pairs[row], modalities[row], distances[row], strict=True
        ):
            stored = (images if modality == IMAGE else texts)[pair - 100]
            assert distance == np.unpackbits(stored ^ queries[row]).sum()

    allowed = modality_ids(np.arange(100, 130), TEXT)
    alone = ch.HammingIndex(bits=BITS)
    alone.add(texts)
    expected = alone.search(queries, 7)
    distances, ids = index.search(queries, 7, allow=allowed)
    assert np.array_equal(distances, expected[0])
    assert np.array_equal(split_ids(ids)[0] - 100, expected[1])
    assert (split_ids(ids)[1] == TEXT).all()


def test_ids():
    assert modality_ids(3, IMAGE).tolist() == [0, 2, 4]
    assert modality_ids([5, 1], TEXT).tolist() == [11, 3]
    pairs, modalities = split_ids([[11, -1, 0]])
    assert pairs.tolist() == [[5, -1, 0]] and modalities.tolist() == [[1, -1, 0]]
    with pytest.raises(ValueError, match="modality must be IMAGE"):
        modality_ids(3, 2)
    with pytest.raises(ValueError, match="of the same pairs, got 2 and 3"):
        cross_modal_index(np.zeros((2, 1), np.uint8), np.zeros((3, 1), np.uint8), 8)


@pytest.mark.parametrize(
    ("pairs", "error"), [(-1, ValueError), (True, TypeError), ([0.5, 1.0], TypeError),
                         ([-1, 2], ValueError), ([2**62, 1], ValueError)],
)  # fmt: skip
def test_numbers_of_pairs_are_whole(pairs, error):
    with pytest.raises(error, match="pairs must be"):
        modality_ids(pairs, IMAGE)
    with pytest.raises(TypeError, match="ids must be whole numbers"):
        split_ids([0.5])
    codes = np.zeros((2, 1), np.uint8)
    if isinstance(pairs, list):
        with pytest.raises(error, match="pairs must be"):
            cross_modal_index(codes, codes, 8, pairs=pairs)
    with pytest.raises(ValueError, match="pairs must be one number for each of 2, got 3"):
        cross_modal_index(codes, codes, 8, pairs=[1, 2, 3])


def test_codes_of_another_length_are_not_scored(codes):
    images, texts, some_images, some_texts = codes
    labels = np.arange(8) % 2, np.arange(30) % 2
    for bits, message in ((24, r"must be uint8 \(N, 3\) for 24 bits"), (9, "in the 7 spare bits")):
        with pytest.raises(ValueError, match=message):
            evaluate_cross_modal(some_images, some_texts, images, texts, *labels, bits=bits)
        with pytest.raises(ValueError, match=message):
            cross_modal_index(images, texts, bits)


@pytest.mark.parametrize("several", [False, True])
def test_scores_of_both_directions(codes, several):
    images, texts, query_images, query_texts = codes
    random = np.random.default_rng(1)
    if several:
        there, asked = random.random((30, 4)) < 0.4, random.random((8, 4)) < 0.4
    else:
        there, asked = random.integers(3, size=30), random.integers(3, size=8)
    data = (query_images, query_texts, images, texts, asked, there)
    scores = evaluate_cross_modal(*data, bits=BITS, k=5)
    for one, queries, database in (
        (scores.image_to_text, query_images, texts), (scores.text_to_image, query_texts, images)
    ):  # fmt: skip
        wanted = ch.metrics.mean_average_precision(queries, database, asked, there)
        assert one.mean_average_precision == pytest.approx(wanted)
        at_k = ch.metrics.mean_average_precision(queries, database, asked, there, k=5)
        assert one.map_at_k == pytest.approx(at_k) and one.queries == 8 and one.database == 30
    both = [one["mean_average_precision"] for one in scores.as_dict().values()]
    assert scores.mean_average_precision == pytest.approx(sum(both) / 2) and both[0] != both[1]
    curves = cross_modal_curves(*data, bits=BITS)
    wanted = ch.metrics.precision_recall_curve(query_texts, images, asked, there, bits=BITS)
    np.testing.assert_allclose(curves["text to image"].precision, wanted.precision)
    assert len(curves["image to text"].recall) == BITS + 1


def test_instance_recall_is_the_mean_over_all_orders_of_ties():
    random = np.random.default_rng(3)
    database = random.integers(0, 4, size=(7, 1)).astype(np.uint8)  # distances 0 to 2: many ties
    queries = random.integers(0, 4, size=(5, 1)).astype(np.uint8)
    there, asked = np.array([0, 1, 2, 0, 1, 2, 0]), np.array([0, 1, 2, 0, 1])
    distances = np.array([[bin(int(q[0] ^ d[0])).count("1") for d in database] for q in queries])
    totals = np.zeros(8)
    orders = list(itertools.permutations(range(7)))
    for q in range(5):
        for order in orders:
            ranked = sorted(order, key=lambda item, q=q: distances[q, item])
            first = next(rank for rank, item in enumerate(ranked) if there[item] == asked[q])
            totals[first + 1 :] += 1
    recall = instance_recall(queries, database, asked, there, ks=(1, 2, 3, 5, 7))
    for k, value in recall.items():
        assert value == pytest.approx(totals[k] / (5 * len(orders)))
    assert 0 < recall[1] < recall[3] < recall[7] == 1.0


def test_instance_recall_of_images_with_several_texts():
    images = ch.pack(np.random.default_rng(0).normal(size=(20, 64)))
    texts = np.repeat(images, 5, axis=0)
    owner = np.repeat(np.arange(20), 5)
    assert instance_recall(images, texts, np.arange(20), owner) == {1: 1.0, 5: 1.0, 10: 1.0}
    assert instance_recall(texts, images, owner, np.arange(20), (1,)) == {1: 1.0}
    backwards = instance_recall(images, texts[::-1], np.arange(20), owner, (1, 100))
    assert backwards[1] == 0.0 and backwards[100] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_instances": [0, 1, 9]}, "instance 9 of the queries is not in the database"),
        ({"query_instances": [0, 1]}, r"query_instances must be integers \(3,\)"),
        ({"database_instances": [0.5, 1, 2]}, r"database_instances must be integers"),
        ({"ks": (0,)}, "ks must be an integer >= 1"),
        ({"ks": "15"}, "ks must be a list of whole numbers"),
        ({"query_codes": np.zeros((3, 2), np.uint8)}, "must be codes of one length"),
        ({"query_codes": np.zeros((0, 1), np.uint8), "query_instances": np.zeros(0, int)},
         "at least one code"),
    ],
)  # fmt: skip
def test_bad_instances_are_named(change, message):
    codes = np.zeros((3, 1), np.uint8)
    given = {"query_codes": codes, "database_codes": codes, "query_instances": [0, 1, 2],
             "database_instances": [0, 1, 2], **change}  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=message):
        instance_recall(**given)
