"""Pairs in memory, tables of image and text, bags of words, halves of images."""

import json

import numpy as np
import pytest

from coophash.data import BagOfWords, ImageSet, PairSet, read_pair_table, split_halves
from coophash.data.halves import half_image

IMAGES = np.arange(12.0).reshape(4, 3)
TEXTS = np.arange(8.0).reshape(4, 2)


def test_a_subset_keeps_what_belongs_together():
    pairs = PairSet(
        IMAGES, TEXTS, np.array([0, 1, 1, 0]), ("cat", "dog"), "pets", ("a", "b", "c", "d"),
        ("A", "B", "C", "D"),
    )  # fmt: skip
    assert repr(pairs) == "PairSet('pets': 4 pairs, images 3, texts 2, 2 classes)"
    for rows in ([2, 0], np.array([2, 0])):
        part = pairs.subset(rows, "part")
        assert part.ids.tolist() == [2, 0] and part.paths == ("c", "a")
        assert part.captions == ("C", "A") and part.labels.tolist() == [1, 0]
        np.testing.assert_array_equal(part.images, IMAGES[rows])
        assert part.name == "part" and part.class_names == ("cat", "dog")
    assert pairs.subset(pairs.labels == 1).subset([1]).ids.tolist() == [2]
    assert pairs.subset(slice(1, 3)).ids.tolist() == [1, 2]
    with pytest.raises(IndexError):
        pairs.subset([4])


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"texts": TEXTS[:3]}, ValueError, "a row for each pair, got 4 and 3 rows"),
        ({"labels": [0, 1, 2]}, ValueError, r"labels must be classes \(4,\)"),
        ({"labels": [0, 1, 2, 3], "class_names": ("a", "b")}, ValueError, "got up to 3"),
        ({"images": IMAGES * 1j}, TypeError, "images must be real numbers"),
        ({"images": IMAGES[:, :0]}, ValueError, r"images must be features \(N, D\)"),
        (
            {"images": np.full((4, 3), 1e60)},
            ValueError,
            "images must be finite .* 1e.60 in row 0",
        ),
        ({"paths": ("a",)}, ValueError, "paths must be one per pair: 4, got 1"),
        ({"ids": np.zeros(3, int)}, ValueError, r"ids must be integers \(4,\)"),
        ({"labels": np.array(["a", "b", "c", "d"])}, TypeError, "labels must be whole numbers"),
        ({"labels": [0, 1, np.inf, 1]}, ValueError, r"below 2\*\*53, got inf"),
        ({"labels": [0, 1, np.nan, 1]}, ValueError, "got fractions or NaN"),
        ({"labels": np.full(4, 2**63, np.uint64)}, ValueError, r"below 2\*\*53, got 92233"),
        ({"labels": np.zeros((4, 0))}, ValueError, "a column for each class, got none"),
        ({"labels": 2 * np.eye(4) - 1}, ValueError, "got values from -1 to 1: write 0 for"),
    ],
)
def test_bad_pairs_are_named(fields, error, message):
    with pytest.raises(error, match=message):
        PairSet(**{"images": IMAGES, "texts": TEXTS, **fields})


def test_labels_as_a_row_or_a_column():
    for labels in ([[0, 1, 2, 1]], [[0], [1], [2], [1]], [0.0, 1.0, 2.0, 1.0]):
        assert PairSet(IMAGES, TEXTS, np.array(labels)).labels.tolist() == [0, 1, 2, 1]


def test_raw_images_have_no_width():
    pairs = PairSet(np.arange(4 * 3 * 64).astype(np.uint8).reshape(4, 3, 8, 8), TEXTS)
    assert np.shares_memory(pairs.subset(slice(1, 3)).images, pairs.images)
    assert np.array_equal(pairs.subset(slice(1, 3)).images, pairs.subset([1, 2]).images)
    assert pairs.raw and "images 3 x 8 x 8" in repr(pairs)
    with pytest.raises(TypeError, match="their features come from a backbone"):
        _ = pairs.image_dim


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_tables(photos):
    (photos / "t.csv").write_text('image,text,label\na.jpg,"red, bus",bus\nb.jpg,cat,cat\n')
    (photos / "t.tsv").write_text("Text\timage\nred bus\ta.jpg\n")
    rows = [
        {"image": "c.jpg", "text": "both", "label": ["cat", "bus"]},
        {"image": "a.jpg", "text": "none"},
    ]
    (photos / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    table = read_pair_table(photos / "t.csv")
    assert table.captions == ("red, bus", "cat") and table.labels.tolist() == [0, 1]
    assert table.class_names == ("bus", "cat") and table.files()[1] == photos / "b.jpg"
    assert read_pair_table(photos / "t.tsv").labels is None
    several = read_pair_table(photos / "t.jsonl", root=photos)
    assert several.labels.tolist() == [[True, True], [False, False]]

    pairs = table.subset([1]).features(
        lambda files: np.ones((len(files), 5)), BagOfWords(["bus", "cat"])
    )
    assert pairs.texts.tolist() == [[0, 1]] and pairs.ids.tolist() == [1]
    assert pairs.captions == ("cat",) and pairs.paths == ("b.jpg",)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("t.csv", "image,caption\na.jpg,x\n", ValueError, "no column 'text', only image, caption"),
        ("t.csv", "image,text\na.jpg,\n", ValueError, "line 2: text is empty"),
        ("t.csv", "image,text\n", ValueError, "has no rows"),
        ("t.csv", "image,text\nz.jpg,x\n", FileNotFoundError, r"1 images .* first 'z\.jpg'"),
        ("t.csv", "image,text,label\na.jpg,x,u\nb.jpg,y,\n", ValueError, "line 3: no label"),
        ("t.jsonl", "{image}\n", ValueError, "line 1: no JSON"),
        ("t.jsonl", "[1]\n", ValueError, "line 1: must be an object"),
        ("t.jsonl", '{"image": 3, "text": "x"}\n', ValueError, "line 1: image is empty"),
        ("t.csv", b"image,text\na.jpg,\xff\n", ValueError, "is not UTF-8"),
        ("t.txt", "", ValueError, r"must end in \.csv"),
        ("t.csv", "image,text\na.jpg,red, bus\n", ValueError, "line 2: more fields than the 2"),
        ("t.csv", 'image,text\na.jpg,"x\nb.jpg,y\n', ValueError, "unexpected end of data"),
        ("t.csv", "image,text,text\na.jpg,x,y\n", ValueError, "has 2 columns 'text': keep one"),
        (
            "t.jsonl",
            '{"image": "a.jpg", "text": "x", "label": {"a": 1}}',
            ValueError,
            "line 1: label must be a name or a list",
        ),
    ],
)
def test_bad_tables_are_named(photos, name, content, error, message):
    path = photos / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=message):
        read_pair_table(path)


def test_features_of_a_table_are_checked(photos):
    (photos / "t.csv").write_text("image,text\na.jpg,x y\nb.jpg,z\n")
    table = read_pair_table(photos / "t.csv")
    words = BagOfWords.fit(table.captions)
    for found, message in (
        (np.zeros((3, 2)), r"image source must return a row for each of 2 images, got \(3, 2\)"),
        (np.full((2, 2), np.nan), "the features of images must be finite"),
        (np.zeros(2), "the features of images must be features"),
    ):
        with pytest.raises(ValueError, match=message):
            table.features(lambda files, found=found: found, words)


def test_words():
    texts = ["A dog's day, and a dog.", "the CAT and the dog's bone", "Größe 42_7"]
    bag = BagOfWords.fit(texts, words=4)
    assert bag.vocabulary == ("and", "dog's", "42", "7")
    assert bag(texts).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    counts = BagOfWords.fit(texts, least=2, counts=True)
    assert counts.vocabulary == ("and", "dog's")
    assert counts(["dog's dog's and", ""]).tolist() == [[1, 2], [0, 0]]
    assert bag([]).shape == (0, 4)
    with pytest.raises(TypeError, match="must be a list of texts"):
        bag("a dog")
    with pytest.raises(ValueError, match="no word in 5 or more"):
        BagOfWords.fit(texts, least=5)
    with pytest.raises(ValueError, match="each once"):
        BagOfWords(["a", "a"])
    for vocabulary, error in (("red", TypeError), (["Red"], ValueError), (["a b"], ValueError)):
        with pytest.raises(error, match="vocabulary must be"):
            BagOfWords(vocabulary)
    with pytest.raises(TypeError, match="must be a list of texts, got 3 in it"):
        bag(["a", 3])


def test_halves_are_the_two_sides_of_an_image():
    images = np.arange(2 * 2 * 3 * 5, dtype=np.uint8).reshape(2, 2, 3, 5)[:, :1]
    whole = ImageSet(np.ascontiguousarray(images), np.array([1, 0]), ("a", "b"), "odd")
    pairs = split_halves(whole)
    assert pairs.images.shape == pairs.texts.shape == (2, 6)
    left = half_image(pairs.images[1], whole.image_shape)
    right = half_image(pairs.texts[1], whole.image_shape)
    np.testing.assert_array_equal(left, whole.float()[1][..., :2])
    np.testing.assert_array_equal(right, whole.float()[1][..., 3:])  # the middle is left out
    assert pairs.labels.tolist() == [1, 0] and pairs.class_names == ("a", "b")
    with pytest.raises(ValueError, match="too narrow"):
        split_halves(ImageSet(np.zeros((1, 1, 2, 1), np.uint8), np.array([0]), ("a",)))
